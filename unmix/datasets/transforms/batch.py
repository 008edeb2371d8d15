"""Views and transforms of a whole batch at once, for small images in memory. Images are floats in units of 0 to 255.

Drawing is apart from applying: ``params = transform.draw(uniform, shape)``, ``transform.apply(images, params)``.
Shapes: N images, C channels, H, W pixels.
"""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from unmix.datasets.samplers import SampleKey, streams
from unmix.datasets.transforms.images import to_tensor
from unmix.registry import TRANSFORMS
from unmix.utils.rng import uniforms

Uniform = Callable[[int], np.ndarray[Any, Any]]
"""``uniform(n)`` returns (N, n) float64 numbers in [0, 1). A second call repeats them: draw all numbers in one call."""


class BatchTransform(ABC):
    """A transform of a batch."""

    @abstractmethod
    def draw(self, uniform: Uniform, shape: torch.Size) -> Any:
        """Draw the parameters for images of ``shape`` (N, C, H, W).

        ``uniform(n)`` returns (N, n) numbers in [0, 1). A second call repeats them: draw all numbers in one call.
        """

    @abstractmethod
    def apply(self, images: Tensor, params: Any) -> Tensor:
        """Return the transformed images, new tensors of the same shape."""


@TRANSFORMS.register_module()
class BatchAffine(BatchTransform):
    """Crop to a share of the area and resize, flip and rotate, in one bilinear sampling; zero outside of the image.

    area ~ U(scale), log(aspect ratio) ~ U(log(ratio)); a side is at most the image's, the place is uniform.

    Args:
        scale: Range of the area of the crop, as a share of the image's.
        ratio: Range of its aspect ratio.
        flip_prob: Probability of a horizontal flip.
        degrees: The angle is uniform in [-degrees, degrees].
    """

    def __init__(
        self,
        scale: tuple[float, float] = (0.6, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        flip_prob: float = 0.0,
        degrees: float = 0.0,
    ) -> None:
        self.scale = scale
        self.ratio = ratio
        self.flip_prob = flip_prob
        self.degrees = degrees

    def draw(self, uniform: Uniform, shape: torch.Size) -> Tensor:
        """Draw the maps (N, 2, 3) from output to input coordinates, each of them in [-1, 1]."""
        u = uniform(6).T
        area = self.scale[0] + u[0] * (self.scale[1] - self.scale[0])
        low, high = np.log(self.ratio)
        ratio = np.exp(low + u[1] * (high - low))
        width, height = np.sqrt(area * ratio).clip(max=1), np.sqrt(area / ratio).clip(max=1)
        x, y = (2 * u[2] - 1) * (1 - width), (2 * u[3] - 1) * (1 - height)
        sign = np.where(u[4] < self.flip_prob, -1, 1)
        angle = (2 * u[5] - 1) * math.radians(self.degrees)
        cos, sin = np.cos(angle), np.sin(angle)
        maps = np.stack([sign * width * cos, -height * sin, x, sign * width * sin, height * cos, y], 1)
        return torch.from_numpy(maps.astype(np.float32)).view(-1, 2, 3)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """Sample the images at the mapped places."""
        height, width = images.shape[-2:]
        # No matrix product, as in F.affine_grid: how that rounds may depend on the size of the batch.
        across, down, shift = params.unsqueeze(2).unbind(3)
        rows = down * _centres(height) + shift
        grid = ((across * _centres(width))[:, :, None, :] + rows[..., None]).permute(0, 2, 3, 1)
        return F.grid_sample(images, grid, mode='bilinear', padding_mode='zeros', align_corners=False)


@TRANSFORMS.register_module()
class BatchColorJitter(BatchTransform):
    """Contrast about the image's mean, ``(x - mean) * c + mean``, then brightness, ``x * b``; nothing is clamped.

    Args:
        brightness: ``b`` is uniform in [1 - brightness, 1 + brightness].
        contrast: ``c`` likewise.
    """

    def __init__(self, brightness: float = 0.4, contrast: float = 0.4) -> None:
        self.brightness = brightness
        self.contrast = contrast

    def draw(self, uniform: Uniform, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Draw the factors of contrast and brightness, (N, 1, 1, 1) each."""
        contrast, brightness = (2 * uniform(2) - 1).T
        return _per_image(1 + contrast * self.contrast), _per_image(1 + brightness * self.brightness)

    def apply(self, images: Tensor, params: tuple[Tensor, Tensor]) -> Tensor:
        """Change contrast and brightness."""
        contrast, brightness = params
        mean = images.mean((1, 2, 3), keepdim=True)
        return torch.lerp(mean, images, contrast).mul_(brightness)


@TRANSFORMS.register_module()
class BatchGamma(BatchTransform):
    """``255 * (x / 255)^g`` with log(g) ~ U(-gamma, gamma); values are at least 1e-4 of 255 before.

    Args:
        gamma: Largest logarithm of the exponent.
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def draw(self, uniform: Uniform, shape: torch.Size) -> Tensor:
        """Draw the exponents (N, 1, 1, 1)."""
        return _per_image(np.exp((2 * uniform(1) - 1) * self.gamma))

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """Raise to the power."""
        return (images / 255).clamp_(min=1e-4).pow_(params).mul_(255)


@TRANSFORMS.register_module()
class BatchNoise(BatchTransform):
    """Add Gaussian noise of a standard deviation ~ U(0, max_std), in units of 0 to 255.

    Args:
        max_std: Largest standard deviation.
    """

    def __init__(self, max_std: float) -> None:
        self.max_std = max_std

    def draw(self, uniform: Uniform, shape: torch.Size) -> Tensor:
        """Draw the noise (N, C, H, W), by Box and Muller's transform."""
        size = math.prod(shape[1:])
        half = (size + 1) // 2
        u = uniform(1 + 2 * half)
        radius, angle = np.sqrt(-2 * np.log1p(-u[:, 1 : 1 + half])), 2 * np.pi * u[:, 1 + half :]
        normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1)[:, :size]
        return torch.from_numpy((self.max_std * u[:, :1] * normal).astype(np.float32)).view(shape)

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """Add the noise."""
        return images + params


def _per_image(values: np.ndarray[Any, Any]) -> Tensor:
    """Turn N numbers into a tensor (N, 1, 1, 1)."""
    return torch.from_numpy(values.astype(np.float32)).view(-1, 1, 1, 1)


@lru_cache
def _centres(size: int) -> Tensor:
    """Coordinates (size,) of the pixels' centres along one side, which is [-1, 1]."""
    return (2 * torch.arange(size, dtype=torch.float32) + 1) / size - 1


@TRANSFORMS.register_module()
class BatchColorMap(BatchTransform):
    """Map grey images to colours, a little other ones for each image and view.

    For methods that need colour (CMC) on data that have none: black and white become two colours, to each channel of
    which a number of U(-jitter, jitter) is added, and grey lies between them. So lightness and colour show the same
    shapes, and neither of them gives the other away.

    Args:
        palette: Colours of black and white, R, G, B in 0 to 255; for evaluation see ``palette`` of
            :class:`~unmix.models.ColorPreprocessor`.
        jitter: In units of 0 to 255; the colours are clamped to that range.
    """

    def __init__(self, palette: Sequence[Sequence[float]], jitter: float = 40.0) -> None:
        self.palette = np.asarray(palette, np.float64)
        self.jitter = jitter

    def draw(self, uniform: Uniform, shape: torch.Size) -> Tensor:
        """Draw the colours of black and of white: (N, 2, 3)."""
        colors = self.palette + self.jitter * (2 * uniform(6).reshape(-1, 2, 3) - 1)
        return torch.from_numpy(colors.clip(0, 255).astype(np.float32))

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """Colour images (N, 1, H, W): (N, 3, H, W).

        Raises:
            ValueError: If the images are not grey.
        """
        if images.shape[1] != 1:
            raise ValueError(f'BatchColorMap colours grey images; these have {images.shape[1]} channels.')
        black, white = params[:, :, :, None, None].unbind(1)
        return black + (white - black) * images / 255


@TRANSFORMS.register_module()
class BatchMultiView:
    """Several views of each image of a batch, as floats in units of 0 to 255.

    The random numbers are a function of (seed, epoch, index, view, name of the transform): not of the batch, and not of
    the other transforms.

    Args:
        transforms: Configs of batch transforms (``BatchAffine``, ...), or such objects.
        num_views: Number of views V.
    """

    def __init__(self, transforms: Sequence[dict[str, Any] | BatchTransform], num_views: int = 2) -> None:
        self.transforms = [TRANSFORMS.build(cfg) if isinstance(cfg, dict) else cfg for cfg in transforms]
        self.num_views = num_views
        # A second transform of a class has a number in its name, so that it draws its own numbers.
        seen: Counter[str] = Counter()
        self.names = []
        for transform in self.transforms:
            name = type(transform).__name__
            self.names.append(f'{name}.{seen[name]}' if seen[name] else name)
            seen[name] += 1

    def batch(self, images: Tensor, keys: Sequence[SampleKey]) -> list[Tensor]:
        """Return the views of images (N, C, H, W): V such tensors.

        Raises:
            ValueError: If the keys are of more than one seed or epoch.
        """
        index, stream = np.array([key.index for key in keys]), streams(keys)
        views = []
        for view in range(self.num_views):
            mapped = images.float()
            for name, transform in zip(self.names, self.transforms, strict=True):
                uniform = partial(uniforms, stream('augmentation', view, name), index)
                mapped = transform.apply(mapped, transform.draw(uniform, mapped.shape))
            views.append(mapped)
        return views

    def __call__(self, image: Image.Image | Tensor, key: SampleKey) -> list[Tensor]:
        """Return the views of one image, V tensors (C, H, W): the same as in a batch."""
        return [view[0] for view in self.batch(to_tensor(image)[None], [key])]
