"""Images, as PIL images and as tensors: what a data set may give, and how one becomes the other."""

from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF

COLOURS = (1, 3)  # numbers of channels that PIL images and changes of colour are for
OVERSHOOT = 26.0  # that interpolation may add at either end of 0 to 255


def to_pil(image: Image.Image | Tensor) -> Image.Image:
    """Turn a tensor (C, H, W) in units of 0 to 255 into a PIL image; fractions are rounded.

    Raises:
        ValueError: If the tensor has not 1 or 3 channels, or values far outside of 0 to 255.
    """
    if not isinstance(image, Tensor):
        return image
    if image.ndim != 3 or image.shape[0] not in COLOURS:
        raise ValueError(f'this is for images of 1 or 3 channels, not for a tensor of shape {tuple(image.shape)}')
    return TF.to_pil_image(to_bytes(image))


def to_bytes(images: Tensor) -> Tensor:
    """Turn images (..., C, H, W) in units of 0 to 255 into uint8; fractions are rounded.

    Raises:
        ValueError: If they have values far outside of 0 to 255.
    """
    if images.dtype == torch.uint8:
        return images
    check_units(images)
    return images.float().round().clamp(0, 255).to(torch.uint8)


def check_units(images: Tensor) -> None:
    """Check that images of another type than uint8 have colours in units of 0 to 255.

    Raises:
        ValueError: If they have values further outside than interpolation brings them.
    """
    low, high = (float(value) for value in images.float().aminmax())
    if low < -OVERSHOOT or high > 255 + OVERSHOOT:
        raise ValueError(
            f'changes of colour are for values of 0 to 255, and the images ({images.dtype}) have {low:g} to {high:g}'
        )


def to_floats(image: Image.Image | Tensor) -> Tensor:
    """Turn an image into a float tensor (C, H, W) of the same values; half precision becomes single."""
    image = to_tensor(image)
    return image if image.is_floating_point() and image.dtype.itemsize >= 4 else image.float()


def to_tensor(image: Any) -> Tensor:
    """Turn a PIL image into a tensor (C, H, W), uint8 where it has 8 bits; palettes become RGB.

    Raises:
        TypeError: If it is neither a PIL image nor a tensor.
    """
    if isinstance(image, Tensor):
        return image.as_subclass(Tensor)  # torchvision's v2 has subclasses
    if isinstance(image, Image.Image):
        image = image.convert({'P': 'RGB', '1': 'L'}[image.mode]) if image.mode in ('P', '1') else image
        return cast(Tensor, TF.pil_to_tensor(image))
    raise TypeError(f'An image is a PIL image or a tensor (C, H, W), not {type(image).__name__}: check `load`.')
