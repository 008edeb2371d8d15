"""What a list of torchvision's transforms asks for, and its random numbers, drawn apart from the pixels. N images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torchvision.transforms as tv

from unmix.datasets.transforms.blur import PILGaussianBlur
from unmix.datasets.transforms.draws import Draws, Op
from unmix.datasets.transforms.geometry import Geometry, geometry_of

ORDERS = np.array(list(permutations(range(4))))  # of the four changes of ColorJitter
Gate = list[tuple[int, float]]  # columns of uniform numbers, and the probabilities that they are to be below


JITTERS = (Op.BRIGHTNESS, Op.CONTRAST, Op.SATURATION, Op.HUE)


@dataclass
class _Change:
    """A change of colour: its columns, its gate, and how codes and values follow from the columns."""

    column: int
    gate: Gate
    width: int
    draw: Callable[[np.ndarray], tuple[Any, Any]]


class Recipe:
    """Crop, flip and changes of colour, in the order of a list of transforms.

    The list has one ``RandomResizedCrop``, or ``Resize`` to a size, or ``Resize`` and ``CenterCrop``; and any number of
    ``RandomHorizontalFlip``, ``ColorJitter``, ``RandomGrayscale``, ``PILGaussianBlur`` and ``RandomSolarize``, alone or
    in a ``RandomApply``.

    Attributes:
        columns: Uniform numbers that a view needs.

    Raises:
        NotImplementedError: If the list holds anything else.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        self.transforms = transforms
        self.columns = 0
        self.split = 0
        self.bicubic = False
        self.changes: list[_Change] = []
        self.flips: list[tuple[Gate, bool]] = []  # and whether it comes before the crop
        geometry: Geometry | None = None
        steps = self._flat(transforms, [])
        while steps:
            transform, gate = steps.pop(0)
            kind = type(transform)
            if kind is tv.RandomHorizontalFlip:
                self.flips.append((self._gated(gate, transform.p), geometry is None))
            elif kind in CHANGES:
                width, draw = CHANGES[kind](transform)
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

    def draw(self, uniform: np.ndarray, sizes: np.ndarray) -> Draws:
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


def _open(gate: Gate, uniform: np.ndarray) -> np.ndarray:
    """Whether all gates let a row pass: (N,) bool."""
    passed = np.ones(len(uniform), bool)
    for column, p in gate:
        passed &= uniform[:, column] < p
    return passed


def _jitter(transform: tv.ColorJitter) -> tuple[int, Callable]:
    """ColorJitter: four factors, in a random order."""
    ranges = [getattr(transform, op.name.lower()) for op in JITTERS]
    used = np.array([Op.NONE if r is None else op for op, r in zip(JITTERS, ranges, strict=True)])
    low, high = np.array([(0, 0) if r is None else r for r in ranges], np.float64).T

    def draw(uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        order = ORDERS[(uniform[:, 0] * len(ORDERS)).astype(np.int64)]
        return used[order], np.take_along_axis(low + (high - low) * uniform[:, 1:5], order, 1)

    return len(JITTERS), draw


def _blur(transform: PILGaussianBlur) -> tuple[int, Callable]:
    low, high = transform.sigma
    return 1, lambda uniform: (Op.BLUR, low + (high - low) * uniform[:, :1])


CHANGES: dict[type, Callable[[Any], tuple[int, Callable]]] = {
    tv.ColorJitter: _jitter,
    tv.RandomGrayscale: lambda transform: (1, lambda uniform: (Op.GREY, 0)),
    tv.RandomSolarize: lambda transform: (1, lambda uniform: (Op.SOLARIZE, transform.threshold)),
    PILGaussianBlur: _blur,
}
