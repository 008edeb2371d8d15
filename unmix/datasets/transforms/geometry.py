"""Which box of an image becomes a view. N images; sizes are (N, 2), height and width.

A geometry takes uniform numbers (N, ``columns``) and sizes, and returns boxes (N, 4: top, left, height, width), the
sizes (N, 2) that they are resized to, and the corners (N, 2) of the views in the resized boxes.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torchvision.transforms as tv

Placed = tuple[np.ndarray, np.ndarray, np.ndarray]
ATTEMPTS = 10  # RandomResizedCrop draws so often until a box fits into the image
FILTERS = (tv.InterpolationMode.BILINEAR, tv.InterpolationMode.BICUBIC)


class Geometry(Protocol):
    """Chooses boxes."""

    size: tuple[int, int]
    columns: int

    def place(self, uniform: np.ndarray, sizes: np.ndarray) -> Placed:
        """Return boxes, the sizes they are resized to, and the corners."""


@dataclass
class RandomBox:
    """torchvision's ``RandomResizedCrop``: area ~ U(scale) of the image's, log(ratio) ~ U(log(ratio)).

    If none of 10 boxes fits, the largest central one of a permitted ratio.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    ratio: tuple[float, float]
    columns: int = 2 * ATTEMPTS + 2

    def place(self, uniform: np.ndarray, sizes: np.ndarray) -> Placed:
        """Draw the boxes."""
        box = self._fitting(uniform[:, 2], uniform[:, 3], sizes[:, 0], sizes[:, 1])
        missing = np.flatnonzero(box[:, 0] == 0)
        if len(missing):  # of these rows the first box that fits of the other attempts, if one does
            later, own = uniform[missing, 4 : 2 * ATTEMPTS + 2], sizes[missing]
            boxes = self._fitting(later[:, ::2], later[:, 1::2], own[:, :1], own[:, 1:])
            first = (boxes[:, 0] > 0).argmax(1)
            box[missing] = boxes[np.arange(len(missing)), :, first]
            missing = missing[box[missing, 0] == 0]
        corner = (uniform[:, :2] * (sizes - box + 1)).astype(np.int64)
        if len(missing):
            box[missing] = self._central(sizes[missing])
            corner[missing] = (sizes[missing] - box[missing]) // 2
        boxes = np.concatenate([corner, box], 1)
        return boxes, np.broadcast_to(self.size, box.shape), np.zeros_like(box)

    def _fitting(self, area: np.ndarray, ratio: np.ndarray, height: np.ndarray, width: np.ndarray) -> np.ndarray:
        """Heights and widths, (N, 2, ...), from uniform numbers (N, ...); 0 where the box does not fit."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * area)
        ratio = np.exp(low + (high - low) * ratio)
        box = np.rint(np.sqrt(np.stack([area / ratio, area * ratio], 1))).astype(np.int64)
        fits = (box[:, 0] > 0) & (box[:, 0] <= height) & (box[:, 1] > 0) & (box[:, 1] <= width)
        return box * fits[:, None]

    def _central(self, sizes: np.ndarray) -> np.ndarray:
        height, width = sizes.T
        return np.stack(
            [
                np.minimum(height, np.rint(width / self.ratio[0])).astype(np.int64),
                np.minimum(width, np.rint(height * self.ratio[1])).astype(np.int64),
            ],
            1,
        )


@dataclass
class WholeImage:
    """The image, resized to ``size``."""

    size: tuple[int, int]
    columns: int = 0

    def place(self, uniform: np.ndarray, sizes: np.ndarray) -> Placed:
        """Return all of each image."""
        zeros = np.zeros_like(sizes)
        return np.concatenate([zeros, sizes], 1), np.broadcast_to(self.size, sizes.shape), zeros


@dataclass
class CentralBox:
    """The centre of the image whose shorter side has been resized to ``short``, as ``Resize`` and ``CenterCrop``."""

    size: tuple[int, int]
    short: int
    columns: int = 0

    def place(self, uniform: np.ndarray, sizes: np.ndarray) -> Placed:
        """Return all of each image; what of it is seen, the corners say."""
        least = sizes.min(1, keepdims=True)
        resized = np.where(sizes == least, self.short, self.short * sizes // least)
        corners = np.rint((resized - self.size) / 2).astype(np.int64)
        return np.concatenate([np.zeros_like(sizes), sizes], 1), resized, corners


def geometry_of(transforms: list[Any]) -> Geometry | None:
    """Return the geometry of one or two of torchvision's transforms; None if it is none of the above."""
    first = transforms[0]
    if getattr(first, 'interpolation', None) not in FILTERS:
        return None
    kinds = [type(transform) for transform in transforms]
    if kinds == [tv.RandomResizedCrop]:
        return RandomBox(tuple(first.size), tuple(first.scale), tuple(first.ratio))
    if first.__dict__.get('max_size') is not None:
        return None
    if kinds == [tv.Resize] and not isinstance(first.size, int):
        return WholeImage(tuple(first.size)) if len(first.size) == 2 else None
    if kinds == [tv.Resize, tv.CenterCrop] and isinstance(first.size, int):
        size = tuple(transforms[1].size)
        return CentralBox(size, first.size) if max(size) <= first.size else None
    return None
