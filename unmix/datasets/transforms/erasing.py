"""Cutout and random erasing, as of 2020's image mixtures. Drawing is apart from applying; both work on tensors.

Colours are in units of the normalised image; ``mean`` and ``std``, those of ``data_preprocessor``, take them to 0..255.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmix.datasets.transforms.images import to_tensor
from unmix.registry import TRANSFORMS

Box = tuple[int, int, int, int]
"""Top, bottom, left, right; half-open."""


class _Erase(ABC):
    """Fills a box of an image with one value."""

    def __init__(self, p: float, mean: float | Sequence[float], std: float | Sequence[float]) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f'{type(self).__name__}.p is {p}; a probability lies in [0, 1].')
        self.p = p
        self.mean, self.std = (torch.tensor(value, dtype=torch.float64).view(-1, 1, 1) for value in (mean, std))

    @abstractmethod
    def draw(self, rng: Any, size: tuple[int, int]) -> tuple[Box, float] | None:
        """Draw a box and a colour for an image of ``size`` (height, width); None leaves it alone."""

    def apply(self, image: Tensor, params: tuple[Box, float] | None) -> Tensor:
        """Return the image (C, H, W), as a float unless it is left alone, with the box filled."""
        if params is None:
            return image
        (top, bottom, left, right), color = params
        erased = image.clone() if image.is_floating_point() else image.float()
        erased[:, top:bottom, left:right] = (self.mean + self.std * color).to(erased.dtype)
        return erased

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        """Return the image with or without a filled box; draws from numpy's global generator, which the views seed."""
        tensor = to_tensor(image)
        tensor = tensor if tensor.is_floating_point() else tensor.float()
        rng = np.random.default_rng(np.random.randint(2**31))
        return self.apply(tensor, self.draw(rng, (tensor.shape[-2], tensor.shape[-1])))


@TRANSFORMS.register_module()
class Cutout(_Erase):
    """With probability ``p`` fill a square, clipped at the border (`Cutout <https://arxiv.org/abs/1708.04552>`_).

    Deviation: the release draws the row from the width and the column from the height, the same for square images.

    Args:
        mask_size: Side of the square in pixels.
        p: Probability.
        inside: Whether the whole square lies in the image.
        color: Colour; 0 is the mean.
        mean: Mean of the normalisation.
        std: Its standard deviation.

    Raises:
        ValueError: If ``p`` is no probability, or the square is not positive, or inside larger than an image.
    """

    def __init__(
        self,
        mask_size: int = 50,
        p: float = 0.1,
        inside: bool = False,
        color: float = 0.0,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__(p, mean, std)
        if mask_size < 1:
            raise ValueError(f'Cutout.mask_size is {mask_size}; a square has at least one pixel.')
        self.mask_size, self.inside, self.color = int(mask_size), inside, color

    def draw(self, rng: Any, size: tuple[int, int]) -> tuple[Box, float] | None:
        """Draw the centre, column before row."""
        if rng.random() > self.p:
            return None
        half, offset = self.mask_size // 2, 1 - self.mask_size % 2
        if self.inside and self.mask_size > min(size):
            raise ValueError(f'Cutout.mask_size is {self.mask_size} with inside=True, but an image has {size} pixels.')
        low = half if self.inside else 0
        edges = []
        for length in reversed(size):
            start = int(rng.integers(low, length + offset - low)) - half
            edges.append((max(start, 0), min(start + self.mask_size, length)))
        (left, right), (top, bottom) = edges
        return (top, bottom, left, right), self.color


@TRANSFORMS.register_module()
class RandomErasing(_Erase):
    """With probability ``p`` fill a box with one random grey (`Random Erasing <https://arxiv.org/abs/1708.04896>`_).

    Up to ``attempts`` times, area ~ U(area) of the image's and ratio ~ U(min_aspect, 1 / min_aspect), linearly, until
    the box fits. The grey is ~ U(0, 1), for all channels. torchvision's class of this name is another one.

    Deviation: the release swaps the axes of the box, the same for square images.

    Args:
        p: Probability.
        area: Range of the area, as a share of the image's.
        min_aspect: Smallest ratio of height to width.
        attempts: Number of attempts.
        mean: Mean of the normalisation.
        std: Its standard deviation.

    Raises:
        ValueError: If ``p`` is no probability, or ``min_aspect`` not in (0, 1].
    """

    def __init__(
        self,
        p: float = 0.1,
        area: tuple[float, float] = (0.02, 0.4),
        min_aspect: float = 0.3,
        attempts: int = 20,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
    ) -> None:
        super().__init__(p, mean, std)
        if not 0 < min_aspect <= 1:
            raise ValueError(f'RandomErasing.min_aspect is {min_aspect}; it lies in (0, 1].')
        self.area, self.min_aspect, self.attempts = area, min_aspect, attempts

    def draw(self, rng: Any, size: tuple[int, int]) -> tuple[Box, float] | None:
        """Draw boxes until one fits: its size, then its column and row, then the grey."""
        if rng.random() > self.p:
            return None
        height, width = size
        for _ in range(self.attempts):
            area = rng.uniform(*self.area) * height * width
            ratio = rng.uniform(self.min_aspect, 1 / self.min_aspect)
            box_height, box_width = int(np.sqrt(area * ratio)), int(np.sqrt(area / ratio))
            if box_width < width and box_height < height:
                left, top = int(rng.integers(width - box_width)), int(rng.integers(height - box_height))
                return (top, top + box_height, left, left + box_width), float(rng.uniform())
        return None
