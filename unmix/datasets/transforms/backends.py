"""Apply drawn parameters to pixels by one of the backends, in the requested type.

N images, C channels, H, W pixels; views of h, w.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

from unmix.datasets.transforms.images import COLOURS, to_pil, to_tensor
from unmix.datasets.transforms.recipe import Draws, Op
from unmix.datasets.transforms.torch_form import torch_views
from unmix.utils.rng import to_device

Images = Tensor | Sequence[Tensor]
Array = np.ndarray[Any, Any]
NO_FLOATS, NO_BYTES = np.empty(0, np.float32), np.empty(0, np.uint8)
PIL_CHANGES: dict[int, Callable[[Image.Image, float], Image.Image]] = {
    Op.NONE: lambda image, _: image,
    Op.BRIGHTNESS: TF.adjust_brightness,
    Op.CONTRAST: TF.adjust_contrast,
    Op.SATURATION: TF.adjust_saturation,
    Op.HUE: TF.adjust_hue,
    Op.GREY: lambda image, _: TF.to_grayscale(image, len(image.getbands())),
    Op.SOLARIZE: TF.solarize,
    Op.BLUR: lambda image, value: image.filter(ImageFilter.GaussianBlur(value)),
}


def write_views(backend: str, images: Images, draws: Draws, out: Tensor, mean: Array, scale: Array) -> None:
    """Write one view of each image.

    Args:
        backend: 'numba', 'torch' or 'pil'. Images on another device than the CPU, or of floats, always take 'torch'.
        images: uint8 or float (N, C, H, W), or N images (C, H, W).
        draws: Parameters of the N views.
        out: (N, C, h, w) of the type of :func:`finished`.
        mean: Of each channel, or one for all.
        scale: Likewise; views that are not uint8 are ``(view - mean) * scale``.
    """
    if out.device.type != 'cpu' or images[0].is_floating_point():
        backend = 'torch'
    channels = out.shape[1]
    if backend == 'numba' and channels not in COLOURS:  # the kernel is for 1 or 3: each channel is an image
        parts = images.flatten(0, 1)[:, None] if isinstance(images, Tensor) else [c[None] for x in images for c in x]
        every, exact = draws.rows(np.repeat(np.arange(len(out)), channels)), torch.empty(out.shape)
        zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
        numba_views(parts, every, exact.view(-1, 1, *out.shape[2:]), zero, one)
        out.copy_(finished(exact, out.dtype, mean, scale))
    elif backend == 'numba':
        exact = torch.empty(out.shape) if out.dtype == torch.bfloat16 else out
        shifts, factors = (np.array(np.broadcast_to(value, out.shape[1])) for value in (mean, scale))
        numba_views(images, draws, exact, shifts, factors)
        if exact is not out:
            out.copy_(exact)
    elif backend == 'torch' and isinstance(images, Tensor):
        out.copy_(finished(torch_views(images, draws), out.dtype, mean, scale))
    else:
        for n, image in enumerate(images):
            if backend == 'torch':
                view = torch_views(image[None], draws.rows(slice(n, n + 1)))[0]
            else:
                view = to_tensor(pil_view(to_pil(image), draws, n))
            out[n] = finished(view, out.dtype, mean, scale)


def finished(views: Tensor, dtype: torch.dtype, mean: Array, scale: Array) -> Tensor:
    """Return views (..., C, h, w) in units of 0 to 255 as uint8, rounded, or as floats ``(view - mean) * scale``."""
    if dtype == torch.uint8:
        return (views + 0.5).to(torch.uint8) if views.is_floating_point() else views
    shift, factor = to_device(np.stack(np.broadcast_arrays(mean, scale)), views.device).view(2, -1, 1, 1)
    return ((views - shift) * factor).to(dtype)


def pil_view(image: Image.Image, draws: Draws, row: int) -> Image.Image:
    """Return the view of an image by the parameters of one row: torchvision's functions, 8 bits after each of them."""
    changes = list(zip(draws.codes[row].tolist(), draws.values[row].tolist(), strict=True))
    for code, value in changes[: draws.split]:
        image = PIL_CHANGES[code](image, value)
    filter_ = InterpolationMode.BICUBIC if draws.bicubic else InterpolationMode.BILINEAR
    image = TF.resized_crop(image, *draws.boxes[row].tolist(), draws.resized[row].tolist(), filter_)
    if tuple(draws.resized[row]) != draws.size:
        image = TF.crop(image, *draws.corners[row].tolist(), *draws.size)
    if draws.flips[row]:
        image = TF.hflip(image)
    for code, value in changes[draws.split :]:
        image = PIL_CHANGES[code](image, value)
    return image


@lru_cache
def kernel() -> Callable[..., None] | None:
    """Return the compiled kernel; None, with a warning, if numba does not work.

    The first call of all compiles it (15 s) and keeps it on disk.
    """
    try:
        from unmix.datasets.transforms.numba_kernel import views
    except Exception as error:  # numba is missing, or does not work with this machine's LLVM or numpy
        warnings.warn(
            f'Views are made by torch, not by numba, which is several times faster, because numba does not work here '
            f'({type(error).__name__}: {error}). Install numba>=0.60, or on a GPU set the pipeline to backend="torch".',
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return cast(Callable[..., None], views)


def numba_views(images: Images, draws: Draws, out: Tensor, mean: Array, scale: Array) -> None:
    """Write one view of each image with the compiled kernel.

    Args:
        images: uint8 (N, C, H, W) or N images (C, H, W), on the CPU; the strides may be those of (H, W, C).
        draws: Parameters of the N views.
        out: (N, C, h, w) uint8, rounded; or float32, ``(view - mean) * scale``.
        mean: (C,) float32.
        scale: (C,) float32.
    """
    views = kernel()
    assert views is not None
    numbers = np.empty((len(images), 12), np.int64)  # origin, height, width of the image, and of its view:
    numbers[:, 3:7], numbers[:, 7:9] = draws.boxes, draws.resized
    numbers[:, 9:11], numbers[:, 11] = draws.corners, draws.flips
    flat, length = out.view(-1).numpy(), out[0].numel()
    parts = [images] if isinstance(images, Tensor) else [image[None] for image in images]
    start = 0
    for part in parts:
        rows = slice(start, start + part.shape[0])
        last = part.permute(0, 2, 3, 1)
        interleaved = part.shape[1] == 3 and last.is_contiguous()
        source = (last if interleaved else part.contiguous()).numpy().reshape(-1)
        numbers[rows, 0] = np.arange(len(part)) * (len(source) // len(part))
        numbers[rows, 1:3] = part.shape[2:]
        target = flat[start * length : rows.stop * length]
        views(
            source,
            numbers[rows],
            draws.codes[rows],
            draws.values[rows],
            draws.split,
            draws.size,
            interleaved,
            draws.bicubic,
            mean,
            scale,
            target if target.dtype == np.float32 else NO_FLOATS,
            target if target.dtype == np.uint8 else NO_BYTES,
        )
        start = rows.stop
