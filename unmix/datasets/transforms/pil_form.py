"""Views by torchvision's functions on PIL images, 8 bits between any two operations: the reference."""

from collections.abc import Callable

from PIL import Image, ImageFilter
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from unmix.datasets.transforms.draws import Draws, Op

CHANGES: dict[int, Callable[[Image.Image, float], Image.Image]] = {
    Op.NONE: lambda image, value: image,
    Op.BRIGHTNESS: TF.adjust_brightness,
    Op.CONTRAST: TF.adjust_contrast,
    Op.SATURATION: TF.adjust_saturation,
    Op.HUE: TF.adjust_hue,
    Op.GREY: lambda image, value: TF.to_grayscale(image, len(image.getbands())),
    Op.SOLARIZE: TF.solarize,
    Op.BLUR: lambda image, value: image.filter(ImageFilter.GaussianBlur(value)),
}


def pil_view(image: Image.Image, draws: Draws, row: int) -> Image.Image:
    """Return the view of an image by the parameters of one row."""
    changes = list(zip(draws.codes[row].tolist(), draws.values[row].tolist(), strict=True))
    for code, value in changes[: draws.split]:
        image = CHANGES[code](image, value)
    filter_ = InterpolationMode.BICUBIC if draws.bicubic else InterpolationMode.BILINEAR
    image = TF.resized_crop(image, *draws.boxes[row].tolist(), draws.resized[row].tolist(), filter_)
    if tuple(draws.resized[row]) != draws.size:
        image = TF.crop(image, *draws.corners[row].tolist(), *draws.size)
    if draws.flips[row]:
        image = TF.hflip(image)
    for code, value in changes[draws.split :]:
        image = CHANGES[code](image, value)
    return image
