"""The parameters of views, which every backend applies alike. N images, K slots."""

from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np


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

    boxes: np.ndarray
    resized: np.ndarray
    corners: np.ndarray
    flips: np.ndarray
    codes: np.ndarray
    values: np.ndarray
    split: int
    size: tuple[int, int]
    bicubic: bool

    def rows(self, part: slice) -> 'Draws':
        """Return the parameters of some of the images."""
        arrays = ('boxes', 'resized', 'corners', 'flips', 'codes', 'values')
        return replace(self, **{name: getattr(self, name)[part] for name in arrays})
