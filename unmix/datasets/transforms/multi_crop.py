"""Crops of several resolutions."""

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from unmix.datasets.samplers import SampleKey
from unmix.datasets.transforms.multi_view import MultiView
from unmix.registry import TRANSFORMS


@TRANSFORMS.register_module()
class MultiCrop:
    """Views of several kinds, such as 2 large and 6 small crops (`SwAV <https://arxiv.org/abs/2006.09882>`_, Sec. 3.2).

    Views are numbered through all kinds, and each draws its own random numbers.

    Args:
        crops: One dict of ``num_views`` and ``transforms``, the arguments of :class:`MultiView`, for each kind.
        **kwargs: Arguments of :class:`MultiView` for all kinds, such as ``backend``.

    Raises:
        ValueError: If there is no kind.
    """

    def __init__(self, crops: Sequence[dict[str, Any]], **kwargs: Any) -> None:
        if not crops:
            raise ValueError('MultiCrop.crops is empty; give a dict of num_views and transforms for each kind of crop.')
        self.kinds: list[MultiView] = []
        for crop in crops:
            self.kinds.append(MultiView(**(kwargs | crop), first_view=self.num_views))

    @property
    def num_views(self) -> int:
        """Number of views of all kinds."""
        return sum(kind.num_views for kind in self.kinds)

    @property
    def fused(self) -> bool:
        """Whether whole batches can be made."""
        return all(kind.fused for kind in self.kinds)

    def prepare(self) -> None:
        """Compile what is to be compiled, so that workers do not have to."""
        for kind in self.kinds:
            kind.prepare()

    def empty(self, num: int, channels: int) -> list[Tensor]:
        """Return room for the views of ``num`` images."""
        return [view for kind in self.kinds for view in kind.empty(num, channels)]

    def batch(
        self, images: Tensor | Sequence[Tensor], keys: Sequence[SampleKey], out: list[Tensor] | None = None
    ) -> list[Tensor]:
        """Return the views of a batch, each (N, C, h, w); see :meth:`MultiView.batch`."""
        return [
            view
            for kind in self.kinds
            for view in kind.batch(
                images, keys, None if out is None else out[kind.first_view : kind.first_view + kind.num_views]
            )
        ]

    def __call__(self, image: Image.Image | Tensor, key: SampleKey) -> list[Tensor]:
        """Return the views of an image, each (C, h, w), in the order of the kinds."""
        return [view for kind in self.kinds for view in kind(image, key)]
