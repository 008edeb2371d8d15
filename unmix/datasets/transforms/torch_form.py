"""Views by torch, a batch at once on any device: the same operations as ``numba_kernel``, to the rounding of float32.

Images are float32 (N, C, H, W) in units of 0 to 255.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unmix.datasets.transforms.blur import blur_kernel
from unmix.datasets.transforms.recipe import Draws, Op
from unmix.utils.rng import to_device

GREY = (0.299, 0.587, 0.114)
Array = np.ndarray[Any, Any]


def torch_views(images: Tensor, draws: Draws) -> Tensor:
    """Return views of images of any real type (N, C, H, W), as float32; the host does not wait for a GPU.

    The draws are those of N views, one of each image, or of V views of each image, one view after the other.
    """
    values = to_device(draws.values, images.device)
    changed = images.float()
    if draws.split:
        changed = changed.repeat(len(draws.boxes) // len(images), 1, 1, 1)
        changed = _run(changed, draws, values, range(draws.split))
    resampled = _resample(changed, draws)
    if draws.bicubic and images.dtype == torch.uint8:  # others may have values of any range
        resampled = resampled.clamp(0, 255)
    return _run(resampled, draws, values, range(draws.split, draws.codes.shape[1]))


def _run(images: Tensor, draws: Draws, values: Tensor, slots: range) -> Tensor:
    """Apply the changes of some slots; ``values`` (N, K) are those of the draws, on the device of the images."""
    if not slots:
        return images
    order = np.argsort(draws.codes, axis=0, kind='stable').T  # of each slot, images with the same change follow another
    places = to_device(np.ascontiguousarray(order), images.device)
    for slot in slots:
        found, starts = np.unique(draws.codes[order[slot], slot], return_index=True)
        for code, start, stop in zip(found.tolist(), starts, [*starts[1:], len(images)], strict=True):
            if code == Op.NONE or (images.shape[1] != 3 and code in (Op.SATURATION, Op.HUE, Op.GREY)):
                continue  # without colours there is nothing to change
            whole = stop - start == len(images)
            index: Any = slice(None) if whole else places[slot, start:stop]
            some = images if whole else images[index]
            if code == Op.BLUR:  # whose kernels are computed on the host
                some = blurred(some, draws.values[slice(None) if whole else order[slot, start:stop], slot])
            else:
                some = CHANGES[code](some, values[:, slot][index].view(-1, 1, 1, 1))
            images = some if whole else images.index_copy(0, index, some)
    return images


def _resample(images: Tensor, draws: Draws) -> Tensor:
    """Crop, resize and flip, as products with matrices of weights, rows before columns."""
    num = len(images)
    if len(draws.boxes) == 1:  # what lies outside of a single box, need not be multiplied with 0
        top, left, height, width = draws.boxes[0]
        images = images[:, :, top : top + height, left : left + width]
        starts = np.zeros((1, 2), np.int64)
    else:
        starts = draws.boxes[:, :2]
    numbers = to_device(np.stack([draws.boxes[:, 2:], draws.resized, draws.corners, starts]), images.device)
    flips = to_device(draws.flips, images.device)
    rows, columns = (_weights(draws, numbers[:, :, axis], axis, images.shape[2 + axis]) for axis in (0, 1))
    columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    views = [slice(start, start + num) for start in range(0, len(rows), num)]
    parts = [rows[view, None] @ images @ columns[view, None].mT for view in views]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _weights(draws: Draws, numbers: Tensor, axis: int, length: int) -> Tensor:
    """Weights (N, S, length) of the pixels along an axis; ``numbers`` (4, N): size, resized, corner, start."""
    size, resized, corner, start = numbers[:, :, None, None]
    device = numbers.device
    scale = size.double() / resized
    pixel = torch.arange(length, device=device)[None, None] - start
    centre = (torch.arange(draws.size[axis], device=device)[None, :, None] + corner + 0.5) * scale
    x = ((pixel + 0.5 - centre) / scale.clamp(min=1)).abs().float()
    if draws.bicubic:
        inner, outer = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        weights = torch.where(x < 1, inner, torch.where(x < 2, outer, 0))
    else:
        weights = (1 - x).clamp(min=0)
    weights = weights * ((pixel >= 0) & (pixel < size))
    return weights / weights.sum(2, keepdim=True)


@cache
@torch.inference_mode(False)
def _grey_weights(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the shares of the colours in grey, (3, 1, 1), copied to the device once."""
    return to_device(np.array(GREY), device, dtype).view(3, 1, 1)


def _grey(images: Tensor) -> Tensor:
    """Return the grey image (N, 1, H, W)."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return (images * _grey_weights(images.dtype, images.device)).sum(1, keepdim=True)


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp(0, 255)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor + (1 - factor) * _grey(images).mean((1, 2, 3), keepdim=True)).clamp(0, 255)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor + (1 - factor) * _grey(images)).clamp(0, 255)


def _hue(images: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue; the largest and the least channel keep their values."""
    red, green, blue = images.unbind(1)
    most, least = images.amax(1), images.amin(1)
    chroma = most - least
    inverse = 1 / chroma.clamp(min=1e-6)
    late = torch.where(most == green, 2 + (blue - red) * inverse, 4 + (red - green) * inverse)
    hue = torch.where(most == red, (green - blue) * inverse, late) + 6 * shift[:, 0]
    distance = torch.stack([torch.remainder(hue + channel, 6) for channel in (5, 3, 1)], 1)
    return most[:, None] - chroma[:, None] * torch.minimum(distance, 4 - distance).clamp(0, 1)


def _solarize(images: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(images >= threshold, 255 - images, images)


def blurred(images: Tensor, values: Array) -> Tensor:
    """Blur float images (N, C, H, W) with radii (N,) as PIL does, the outermost pixels repeated."""
    halves = [blur_kernel(float(value)) for value in values]
    radius = max(len(half) for half in halves) - 1
    kernels = np.stack([np.pad(half, (0, radius + 1 - len(half))) for half in halves])
    num, channels, height, width = images.shape
    kernel = to_device(np.concatenate([kernels[:, :0:-1], kernels], 1), images.device)
    kernel = kernel.repeat_interleave(channels, 0)
    blurred = images.reshape(1, num * channels, height, width)
    for shape, pad in (((1, -1), (radius, radius, 0, 0)), ((-1, 1), (0, 0, radius, radius))):
        padded = F.pad(blurred, pad, mode='replicate')
        blurred = F.conv2d(padded, kernel.view(num * channels, 1, *shape), groups=num * channels)
    return blurred.view_as(images)


# Each takes images (N, C, H, W) and their values (N, 1, 1, 1).
CHANGES: dict[int, Callable[[Tensor, Tensor], Tensor]] = {
    Op.BRIGHTNESS: _brightness,
    Op.CONTRAST: _contrast,
    Op.SATURATION: _saturation,
    Op.HUE: _hue,
    Op.GREY: lambda images, values: _grey(images).expand_as(images),
    Op.SOLARIZE: _solarize,
}
