"""Methods whose views are encoded by the same network and compared in pairs."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from unmix.models.algorithms.base import MIXTURE, BaseAlgorithm, Features, View, beside_mixture
from unmix.registry import MODELS


@MODELS.register_module()
class SimCLR(BaseAlgorithm):
    """`SimCLR <https://arxiv.org/abs/2002.05709>`_: ``loss = mean over pairs of views i < j of head(q_i, q_j)``.

    With Un-Mix the mixture of view 0 takes its place in the pairs that it is part of. Both sides of a pair learn.

    PIC's repository encodes each view on its own; its BatchNorm layers see one view. htdt does so in the backbone, but
    its neck normalises the views of a pair, or all of them, together: ``joint_neck=True``. Then view 1 is projected
    twice with Un-Mix, once together with view 0 and once together with the mixture, as two calls of the method would.

    Args:
        num_views: Number of views V.
        joint_neck: Whether BatchNorm in the neck sees all views that are compared at once.
        **kwargs: As in :class:`BaseAlgorithm`.

    Raises:
        ValueError: If there are fewer than 2 views.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        head: dict[str, Any],
        num_views: int = 2,
        joint_neck: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone=backbone, head=head, **kwargs)
        if num_views < 2:
            raise ValueError(f'model.num_views is {num_views}; views are compared in pairs, so there are at least 2.')
        self.num_views, self.joint_neck = num_views, joint_neck
        self.pairs = tuple(combinations(range(num_views), 2))
        self.pair_weight, self.mixture_weight = 1 / len(self.pairs), 1 / (num_views - 1)

    @property
    def query_views(self) -> list[int]:
        """All views."""
        return list(range(self.num_views))

    def views(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the views, if there are as many as expected.

        Raises:
            ValueError: If there are others.
        """
        if len(inputs) != self.num_views:
            raise ValueError(
                f'model.num_views is {self.num_views}, but the data set delivers {len(inputs)} views. Set '
                f'train_dataloader.dataset.pipeline.num_views={self.num_views}.'
            )
        return inputs

    def encode_all(self, views: Mapping[View, Tensor]) -> Features:
        """Encode all views and the mixture: the neck jointly or each on its own, the backbone each on its own."""
        if not self.joint_neck:
            return super().encode_all(views)
        features = {name: self.backbone(view) for name, view in views.items()}
        if 0 not in views:
            return self.project_jointly(features)  # the mixture is in the place of view 0
        mixture = features.pop(MIXTURE, None)
        queries = self.project_jointly(features)
        if mixture is not None:
            mixed = self.project_jointly({j: features[j] for j in features if j != 0} | {MIXTURE: mixture})
            queries |= {beside_mixture(j) if isinstance(j, int) else j: query for j, query in mixed.items()}
        return queries

    def project_jointly(self, features: Mapping[View, Tensor]) -> Features:
        """Project backbone features of several views in one pass."""
        queries = self.project(torch.cat(list(features.values())))
        return dict(zip(features, queries.split([len(part) for part in features.values()]), strict=True))
