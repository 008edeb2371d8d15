"""Momentum contrast."""

from typing import Any

import torch
from torch import Tensor

from unmix.models.algorithms.base import BaseAlgorithm
from unmix.models.algorithms.momentum import MomentumEncoder
from unmix.registry import MODELS
from unmix.utils.dist import concat_all_gather, rank_slice
from unmix.utils.rng import to_device


@MODELS.register_module()
class MoCo(BaseAlgorithm):
    """`MoCo v1 <https://arxiv.org/abs/1911.05722>`_ and `v2 <https://arxiv.org/abs/2003.04297>`_.

    Queries are contrasted with keys of a momentum encoder, against the queue of the head. v1 has a linear neck, v2 an
    MLP. In the symmetric form (the CIFAR demo of the MoCo authors) each view is query and key; the loss is the sum of
    both directions, not their mean, as released. With Un-Mix its mixture, of view 0, meets the keys of both views.

    Before the keys are encoded, the images of all ranks are shuffled over the ranks, so that a query and its key
    share no BatchNorm statistics; on one device, :class:`SplitBatchNorm` in the backbone takes the part of the ranks.

    Args:
        momentum: Share of the momentum encoder's old weights that stays at each optimiser step.
        symmetric: Whether both views are queries.
        **kwargs: As in :class:`BaseAlgorithm`.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        neck: dict[str, Any],
        head: dict[str, Any],
        momentum: float = 0.999,
        symmetric: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone=backbone, neck=neck, head=head, **kwargs)
        self.pairs = ((0, 1), (1, 0)) if symmetric else ((0, 1),)
        self.momentum_encoder = MomentumEncoder(self.backbone, self.neck, momentum)

    def start_step(self) -> None:
        """Open the stream of this step's shuffles."""
        self.shuffle_rng = self.generator('shuffle')

    @torch.no_grad()
    def encode_target(self, view: Tensor, query: Tensor | None, index: Tensor | None) -> Tensor:
        """Return the keys (N, D) of a view: shuffled over ranks, encoded, and put back in order."""
        assert self.momentum_encoder is not None
        images = concat_all_gather(view)
        permutation = self.draw_permutation(len(images), view.device)
        own = rank_slice(len(view))
        keys = concat_all_gather(self.momentum_encoder(images[permutation[own]]))
        return keys[permutation.argsort()[own]]

    def draw_permutation(self, size: int, device: torch.device) -> Tensor:
        """Draw the next shuffle of ``size`` key images, the same on every rank."""
        return to_device(self.shuffle_rng.permutation(size), device)
