"""Crops of several resolutions."""

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from unmix.datasets.samplers import SampleKey
from unmix.datasets.transforms.per_sample import MultiView
from unmix.registry import TRANSFORMS


@TRANSFORMS.register_module()
class MultiCrop:
    """Views of several kinds, such as 2 large and 6 small crops (`SwAV <https://arxiv.org/abs/2006.09882>`_, Sec. 3.2).

    Views are numbered through all kinds, and each draws its own random numbers.

    Args:
        crops: One dict of ``num_views`` and ``transforms``, the arguments of :class:`MultiView`, for each kind.

    Raises:
        ValueError: If there is no kind.
    """

    def __init__(self, crops: Sequence[dict[str, Any]]) -> None:
        if not crops:
            raise ValueError('MultiCrop.crops is empty; give a dict of num_views and transforms for each kind of crop.')
        self.kinds: list[MultiView] = []
        for crop in crops:
            self.kinds.append(MultiView(**crop, first_view=self.num_views))

    @property
    def num_views(self) -> int:
        """Number of views of all kinds."""
        return sum(kind.num_views for kind in self.kinds)

    def __call__(self, image: Image.Image | Tensor, key: SampleKey) -> list[Tensor]:
        """Return the views of an image, each (C, H, W), in the order of the kinds."""
        return [view for kind in self.kinds for view in kind(image, key)]
