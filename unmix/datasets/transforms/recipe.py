"""Read a list of torchvision's transforms, and draw the parameters of views apart from the pixels.

N images, K slots. Sizes are (N, 2), height and width. A geometry (``RandomBox``, ``Resized``) takes ``columns`` uniform
numbers of each image, (N, columns), and sizes. It returns boxes (N, 4: top, left, height, width), the sizes (N, 2) that
they are resized to, and the corners (N, 2) of the views in the resized boxes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import permutations
from typing import Any

import numpy as np
import torchvision.transforms as tv

from unmix.datasets.transforms.blur import PILGaussianBlur

Array = np.ndarray[Any, Any]


class Op(IntEnum):
    """What is done in a slot."""

    NONE = 0
    BRIGHTNESS = 1
    CONTRAST = 2
    SATURATION = 3
    HUE = 4
    GREY = 5
    SOLARIZE = 6
    BLUR = 7


@dataclass
class Draws:
    """The parameters of one view of each of N images.

    Attributes:
        boxes: (N, 4) int64, top, left, height, width of what is cropped.
        resized: (N, 2) int64, height and width that the box is resized to.
        corners: (N, 2) int64, top and left of the view in the resized box; other than 0 for a central crop only.
        flips: (N,) bool, whether the view is flipped horizontally.
        codes: (N, K) int64, the :class:`Op` of each slot, in the order in which they are applied.
        values: (N, K) float32: factor, shift of the hue in turns, threshold (0 to 255), radius of the blur in pixels.
        split: Number of slots before the crop.
        size: Height and width of a view.
        bicubic: Whether the filter is cubic (a = -0.5), or else linear; both are widened where they shrink the box.
    """

    boxes: Array
    resized: Array
    corners: Array
    flips: Array
    codes: Array
    values: Array
    split: int
    size: tuple[int, int]
    bicubic: bool

    def rows(self, part: slice | Array) -> 'Draws':
        """Return the parameters of some of the images."""
        arrays = ('boxes', 'resized', 'corners', 'flips', 'codes', 'values')
        return replace(self, **{name: getattr(self, name)[part] for name in arrays})


ATTEMPTS = 10  # RandomResizedCrop draws up to 10 boxes until one fits into the image
FILTERS = (tv.InterpolationMode.BILINEAR, tv.InterpolationMode.BICUBIC)
JITTERS = (Op.BRIGHTNESS, Op.CONTRAST, Op.SATURATION, Op.HUE)
ORDERS = np.array(list(permutations(range(len(JITTERS)))))
Placed = tuple[Array, Array, Array]
Gate = list[tuple[int, float]]  # columns of uniform numbers, and the probabilities that they must be below
DrawChange = Callable[[Array], tuple[Any, Any]]  # from uniform numbers (N, ...) to codes and values (N, width)


@dataclass
class RandomBox:
    """torchvision's ``RandomResizedCrop``: area ~ U(scale) of the image's, log(ratio) ~ U(log(ratio)).

    If none of 10 boxes fits, the largest central one of a permitted ratio.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    ratio: tuple[float, float]
    columns: int = 2 * ATTEMPTS + 2

    def place(self, uniform: Array, sizes: Array) -> Placed:
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

    def _fitting(self, area: Array, ratio: Array, height: Array, width: Array) -> Array:
        """Heights and widths, (N, 2, ...), from uniform numbers (N, ...); 0 where the box does not fit."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * area)
        ratio = np.exp(low + (high - low) * ratio)
        box = np.rint(np.sqrt(np.stack([area / ratio, area * ratio], 1))).astype(np.int64)
        fits = (box[:, 0] > 0) & (box[:, 0] <= height) & (box[:, 1] > 0) & (box[:, 1] <= width)
        return np.where(fits[:, None], box, 0)

    def _central(self, sizes: Array) -> Array:
        height, width = sizes.T
        return np.stack(
            [
                np.minimum(height, np.rint(width / self.ratio[0])).astype(np.int64),
                np.minimum(width, np.rint(height * self.ratio[1])).astype(np.int64),
            ],
            1,
        )


@dataclass
class Resized:
    """The whole image, resized to ``size``; or, with ``short``, ``Resize(short)`` and ``CenterCrop(size)``."""

    size: tuple[int, int]
    short: int | None = None
    columns: int = 0

    def place(self, uniform: Array, sizes: Array) -> Placed:
        """Return all of each image; the corners tell which part of it is seen."""
        corners = np.zeros_like(sizes)
        boxes, resized = np.concatenate([corners, sizes], 1), np.broadcast_to(self.size, sizes.shape)
        if self.short is not None:
            least = sizes.min(1, keepdims=True)
            resized = np.where(sizes == least, self.short, self.short * sizes // least)
            corners = np.rint((resized - self.size) / 2).astype(np.int64)
        return boxes, resized, corners


def geometry_of(transforms: list[Any]) -> RandomBox | Resized | None:
    """Return the geometry of one or two of torchvision's transforms; None if there is none for them."""
    first = transforms[0]
    if getattr(first, 'interpolation', None) not in FILTERS:
        return None
    kinds = [type(transform) for transform in transforms]
    if kinds == [tv.RandomResizedCrop]:
        return RandomBox(tuple(first.size), tuple(first.scale), tuple(first.ratio))
    if first.__dict__.get('max_size') is not None:
        return None
    if kinds == [tv.Resize] and not isinstance(first.size, int):
        return Resized(tuple(first.size)) if len(first.size) == 2 else None
    if kinds == [tv.Resize, tv.CenterCrop] and isinstance(first.size, int):
        size = tuple(transforms[1].size)
        return Resized(size, first.size) if max(size) <= first.size else None
    return None


@dataclass
class _Change:
    """A change of colour: its columns, its gate, and how codes and values follow from the columns."""

    column: int
    gate: Gate
    width: int
    draw: DrawChange


class Recipe:
    """Crop, flip and changes of colour, in the order of a list of transforms.

    The list has one ``RandomResizedCrop``, or ``Resize`` to a size, or ``Resize`` and ``CenterCrop``; and any number of
    ``RandomHorizontalFlip``, ``ColorJitter``, ``RandomGrayscale``, ``PILGaussianBlur`` and ``RandomSolarize``, alone or
    in a ``RandomApply``.

    Attributes:
        columns: Uniform numbers that a view needs.
        colours: Names of the changes of colour, which are for 1 or 3 channels in units of 0 to 255.

    Raises:
        NotImplementedError: If the list holds anything else.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        self.transforms = transforms
        self.columns = 0
        self.split = 0
        self.bicubic = False
        self.changes: list[_Change] = []
        self.colours: list[str] = []
        self.flips: list[tuple[Gate, bool]] = []  # and whether it comes before the crop
        geometry: RandomBox | Resized | None = None
        steps = self._flat(transforms, [])
        while steps:
            transform, gate = steps.pop(0)
            kind = type(transform)
            if kind is tv.RandomHorizontalFlip:
                self.flips.append((self._gated(gate, transform.p), geometry is None))
            elif kind in CHANGES:
                width, draw = CHANGES[kind](transform)
                self.colours += [kind.__name__] if kind is not PILGaussianBlur else []
                gate = self._gated(gate, transform.p) if hasattr(transform, 'p') else gate
                self.changes.append(_Change(self._take(width + 1), gate, width, draw))
                self.split += width if geometry is None else 0
            elif kind is not tv.PILToTensor:  # views are tensors without it
                pair = bool(steps) and type(steps[0][0]) is tv.CenterCrop
                found = geometry_of([transform, *([steps.pop(0)[0]] if pair else [])])
                if found is None or geometry is not None or gate:
                    raise NotImplementedError(f'{kind.__name__} here')
                geometry, self.bicubic = found, transform.interpolation is tv.InterpolationMode.BICUBIC
                self.corner = self._take(geometry.columns)
        if geometry is None:
            raise NotImplementedError('no crop and no size')
        self.geometry = geometry
        self.size = geometry.size

    def __reduce__(self) -> tuple[type, tuple[Sequence[Any]]]:
        return Recipe, (self.transforms,)  # of the rest, functions cannot be pickled for workers that are not forked

    def _flat(self, transforms: Sequence[Any], gate: Gate) -> list[tuple[Any, Gate]]:
        """Transforms one after the other, each with its gate."""
        found: list[tuple[Any, Gate]] = []
        for transform in transforms:
            if isinstance(transform, tv.RandomApply):
                found += self._flat(list(transform.transforms), self._gated(gate, transform.p))
            else:
                found.append((transform, gate))
        return found

    def _gated(self, gate: Gate, p: float) -> Gate:
        return [*gate, (self._take(1), p)]

    def _take(self, num: int) -> int:
        """Reserve columns."""
        self.columns += num
        return self.columns - num

    def draw(self, uniform: Array, sizes: Array) -> Draws:
        """Draw the parameters.

        Args:
            uniform: (N, ``columns``) float64 in [0, 1).
            sizes: (N, 2) int64, height and width of the images.
        """
        boxes, resized, corners = self.geometry.place(uniform[:, self.corner :], sizes)
        num = len(uniform)
        flips = np.zeros(num, bool)
        for gate, early in self.flips:
            chosen = _open(gate, uniform)
            flips ^= chosen
            if early:  # a crop of the flipped image is the flipped crop from the other side
                boxes[:, 1] = np.where(chosen, sizes[:, 1] - boxes[:, 1] - boxes[:, 3], boxes[:, 1])
        slots = sum(change.width for change in self.changes)
        codes, values = np.zeros((num, slots), np.int64), np.zeros((num, slots), np.float32)
        start = 0
        for change in self.changes:
            stop = start + change.width
            codes[:, start:stop], values[:, start:stop] = change.draw(uniform[:, change.column :])
            if change.gate:
                codes[~_open(change.gate, uniform), start:stop] = Op.NONE
            start = stop
        return Draws(boxes, resized, corners, flips, codes, values, self.split, self.size, self.bicubic)


def _open(gate: Gate, uniform: Array) -> Array:
    """Whether all gates let a row pass: (N,) bool."""
    passed = np.ones(len(uniform), bool)
    for column, p in gate:
        passed &= uniform[:, column] < p
    return passed


def _jitter(transform: tv.ColorJitter) -> tuple[int, DrawChange]:
    """ColorJitter: four factors, in a random order."""
    ranges = [getattr(transform, op.name.lower()) for op in JITTERS]
    used = np.array([Op.NONE if r is None else op for op, r in zip(JITTERS, ranges, strict=True)])
    low, high = np.array([(0, 0) if r is None else r for r in ranges], np.float64).T

    def draw(uniform: Array) -> tuple[Array, Array]:
        order = ORDERS[(uniform[:, 0] * len(ORDERS)).astype(np.int64)]
        return used[order], np.take_along_axis(low + (high - low) * uniform[:, 1:5], order, 1)

    return len(JITTERS), draw


def _blur(transform: PILGaussianBlur) -> tuple[int, DrawChange]:
    low, high = transform.sigma
    return 1, lambda uniform: (Op.BLUR, low + (high - low) * uniform[:, :1])


CHANGES: dict[type, Callable[[Any], tuple[int, DrawChange]]] = {
    tv.ColorJitter: _jitter,
    tv.RandomGrayscale: lambda _: (1, lambda _: (Op.GREY, 0)),
    tv.RandomSolarize: lambda transform: (1, lambda _: (Op.SOLARIZE, transform.threshold)),
    PILGaussianBlur: _blur,
}
