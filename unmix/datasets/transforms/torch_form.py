"""Views by torch, a batch at once on any device: the same operations as ``numba_kernel``, to the rounding of float32.

Images are float32 (N, C, H, W) in units of 0 to 255.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unmix.datasets.transforms.blur import blur_kernel
from unmix.datasets.transforms.recipe import Draws, Op

GREY = (0.299, 0.587, 0.114)


def torch_views(images: Tensor, draws: Draws) -> Tensor:
    """Return one view of each image of any real type (N, C, H, W), as float32."""
    changed = _run(images.float(), draws, range(draws.split))
    resampled = _resample(changed, draws)
    if draws.bicubic and images.dtype == torch.uint8:  # others may have values of any range
        resampled = resampled.clamp(0, 255)
    return _run(resampled, draws, range(draws.split, draws.codes.shape[1]))


def _run(images: Tensor, draws: Draws, slots: range) -> Tensor:
    for slot in slots:
        codes = draws.codes[:, slot]
        for code in np.unique(codes):
            if code == Op.NONE or (images.shape[1] != 3 and code in (Op.SATURATION, Op.HUE, Op.GREY)):
                continue  # without colours there is nothing to change
            rows = np.flatnonzero(codes == code)
            values = draws.values[rows, slot]
            if len(rows) == len(images):
                images = CHANGES[code](images, values)
            else:
                index = torch.from_numpy(rows).to(images.device)
                images = images.index_copy(0, index, CHANGES[code](images[index], values))
    return images


def _resample(images: Tensor, draws: Draws) -> Tensor:
    """Crop, resize and flip, as products with matrices of weights, rows before columns."""
    if len(images) == 1:  # what lies outside of a single box, need not be multiplied with 0
        top, left, height, width = draws.boxes[0]
        images = images[:, :, top : top + height, left : left + width]
        starts = np.zeros((1, 2), np.int64)
    else:
        starts = draws.boxes[:, :2]
    rows, columns = (_weights(draws, starts, axis, images.shape[2 + axis], images.device) for axis in (0, 1))
    flips = torch.from_numpy(draws.flips).to(images.device)
    columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    return rows[:, None] @ images @ columns[:, None].mT


def _weights(draws: Draws, starts: np.ndarray, axis: int, length: int, device: torch.device) -> Tensor:
    """Weights (N, S, length) of the pixels along an axis."""
    size, resized, corner, start = (
        torch.from_numpy(np.array(array[:, axis])).to(device)[:, None, None]
        for array in (draws.boxes[:, 2:], draws.resized, draws.corners, starts)
    )
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


def _grey(images: Tensor) -> Tensor:
    """Return the grey image (N, 1, H, W)."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return (images * images.new_tensor(GREY).view(3, 1, 1)).sum(1, keepdim=True)


def _column(images: Tensor, values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).to(images.device).view(-1, 1, 1, 1)


def _brightness(images: Tensor, values: np.ndarray) -> Tensor:
    return (images * _column(images, values)).clamp(0, 255)


def _contrast(images: Tensor, values: np.ndarray) -> Tensor:
    factor = _column(images, values)
    return (images * factor + (1 - factor) * _grey(images).mean((1, 2, 3), keepdim=True)).clamp(0, 255)


def _saturation(images: Tensor, values: np.ndarray) -> Tensor:
    factor = _column(images, values)
    return (images * factor + (1 - factor) * _grey(images)).clamp(0, 255)


def _hue(images: Tensor, values: np.ndarray) -> Tensor:
    """Shift the hue; the largest and the least channel keep their values."""
    red, green, blue = images.unbind(1)
    most, least = images.amax(1), images.amin(1)
    chroma = most - least
    inverse = 1 / chroma.clamp(min=1e-6)
    late = torch.where(most == green, 2 + (blue - red) * inverse, 4 + (red - green) * inverse)
    hue = torch.where(most == red, (green - blue) * inverse, late) + 6 * _column(images, values)[:, 0]
    distance = torch.stack([torch.remainder(hue + channel, 6) for channel in (5, 3, 1)], 1)
    return most[:, None] - chroma[:, None] * torch.minimum(distance, 4 - distance).clamp(0, 1)


def _solarize(images: Tensor, values: np.ndarray) -> Tensor:
    return torch.where(images >= _column(images, values), 255 - images, images)


def blurred(images: Tensor, values: np.ndarray) -> Tensor:
    """Blur float images (N, C, H, W) with radii (N,) as PIL does, the outermost pixels repeated."""
    halves = [blur_kernel(float(value)) for value in values]
    radius = max(len(half) for half in halves) - 1
    kernels = np.stack([np.pad(half, (0, radius + 1 - len(half))) for half in halves])
    num, channels, height, width = images.shape
    kernel = torch.from_numpy(np.concatenate([kernels[:, :0:-1], kernels], 1)).to(images.device)
    kernel = kernel.repeat_interleave(channels, 0)
    blurred = images.reshape(1, num * channels, height, width)
    for shape, pad in (((1, -1), (radius, radius, 0, 0)), ((-1, 1), (0, 0, radius, radius))):
        padded = F.pad(blurred, pad, mode='replicate')
        blurred = F.conv2d(padded, kernel.view(num * channels, 1, *shape), groups=num * channels)
    return blurred.view_as(images)


CHANGES: dict[int, Callable[[Tensor, np.ndarray], Tensor]] = {
    Op.BRIGHTNESS: _brightness,
    Op.CONTRAST: _contrast,
    Op.SATURATION: _saturation,
    Op.HUE: _hue,
    Op.GREY: lambda images, values: _grey(images).expand_as(images),
    Op.SOLARIZE: _solarize,
    Op.BLUR: blurred,
}
