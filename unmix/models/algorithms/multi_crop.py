"""Views that are lists of crops of several resolutions. Shapes: N samples, V crops, D features."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.mixing import UnMix
from unmix.models.algorithms.base import BaseAlgorithm, Features, View


class MultiCropAlgorithm(BaseAlgorithm):
    """A method whose views are lists of crops, encoded jointly.

    Crops of one resolution, the mixtures among them, go through the backbone as one batch, and all features through the
    neck as one batch. So BatchNorm statistics are those of a resolution, and in the neck those of all crops, including
    the mixtures (`SwAV <https://arxiv.org/abs/2006.09882>`_ and Un-Mix SwAV, as released).

    All ranks draw the same mixture, as released.
    """

    def check_unmix(self, unmix: UnMix) -> None:
        """Check also that the mixtures can be encoded together with the crops of their size."""
        super().check_unmix(unmix)
        if unmix.patch_drop:
            raise ValueError(
                f'model.unmix.patch_drop is {unmix.patch_drop}, but {type(self).__name__} encodes mixtures and crops '
                "of one size together, with the same patches. Leave it out; pairs='once' makes Un-Mix cheaper, too."
            )

    def mixing_rng(self) -> np.random.Generator:
        """Return those of all ranks."""
        return self.generator('mixing')

    def encode_all(self, views: Mapping[View, Any]) -> Features:
        """Encode all crops of all views, and of the mixture, jointly: (N, V, D) for each."""
        crops = [crop for view in views.values() for crop in view]
        groups: dict[torch.Size, list[int]] = {}
        for i, crop in enumerate(crops):
            groups.setdefault(crop.shape[-2:], []).append(i)
        features = [self.backbone(torch.cat([crops[i] for i in group])) for group in groups.values()]
        grouped = [i for group in groups.values() for i in group]
        encoded = self.project(torch.cat(features)).split([len(crops[i]) for i in grouped])
        by_crop = dict(zip(grouped, encoded, strict=True))
        in_order = (by_crop[i] for i in range(len(crops)))
        return {name: torch.stack([next(in_order) for _ in view], 1) for name, view in views.items()}

    def check_pairs(self, inputs: Sequence[Tensor]) -> None:
        """Check that the crops come in pairs of one resolution, which Un-Mix needs.

        Raises:
            ValueError: If a resolution has an odd number of crops.
        """
        sizes = [tuple(crop.shape[-2:]) for crop in inputs]
        if len(sizes) % 2 or any(a != b for a, b in zip(sizes[::2], sizes[1::2], strict=True)):
            counts = ', '.join(f'{sizes.count(size)} of {size[0]}x{size[1]}' for size in dict.fromkeys(sizes))
            raise ValueError(
                f'The crops of train_dataloader.dataset.pipeline are {counts}; Un-Mix mixes one of each pair, so it '
                'needs an even number of crops of each resolution, those of one resolution one after the other.'
            )
