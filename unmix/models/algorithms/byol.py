"""Bootstrap your own latent."""

import math
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from unmix.models.algorithms.base import MIXTURE, View
from unmix.models.algorithms.momentum import MomentumEncoder
from unmix.models.algorithms.simclr import SimCLR
from unmix.registry import MODELS
from unmix.utils.clock import read_clock


@MODELS.register_module()
class BYOL(SimCLR):
    """`BYOL <https://arxiv.org/abs/2006.07733>`_: predict a momentum encoder's projection of the other view.

    ``loss = sum over both directions of head(predictor(q_i), t_j)``, a mean over the pairs i < j if there are more than
    two views. With Un-Mix the mixture of view 0 takes its place in both networks, as in the recipe of Un-Mix's README,
    which calls the whole loss with the mixture as a view; the code for BYOL is not published.

    The momentum rises to 1: ``1 - (1 - momentum) (cos(pi progress) + 1) / 2``, where progress is the share of the
    training done, in steps (the paper) or in whole epochs (htdt).

    Args:
        predictor: From projection to projection; None for none.
        momentum: Share of the momentum encoder's old weights that stays, at the start.
        momentum_by_epoch: Whether progress is counted in whole epochs.
        num_views: Number of views V.
        **kwargs: As in :class:`BaseAlgorithm`.
    """

    def __init__(
        self,
        backbone: dict[str, Any],
        neck: dict[str, Any],
        predictor: dict[str, Any] | None,
        head: dict[str, Any],
        momentum: float = 0.99,
        momentum_by_epoch: bool = False,
        num_views: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, head, num_views, False, neck=neck, **kwargs)
        self.pairs = tuple(permutations(range(num_views), 2))
        self.pair_weight = 2 / len(self.pairs)
        self.predictor = torch.nn.Identity() if predictor is None else MODELS.build(predictor)
        self.momentum_encoder = MomentumEncoder(self.backbone, self.neck, momentum)
        self.momentum, self.momentum_by_epoch = momentum, momentum_by_epoch

    @property
    def mixture_pairs(self) -> tuple[tuple[View, View], ...]:
        """The mixture in the place of view 0, in both directions."""
        others = range(1, self.num_views)
        return tuple((MIXTURE, j) for j in others) + tuple((i, MIXTURE) for i in others)

    def momentum_at(self, progress: float) -> float:
        """Return the momentum after a share ``progress`` of the training."""
        return 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2

    def current_momentum(self) -> float:
        """Return the momentum of this step."""
        return self.momentum_at(self.progress())

    def progress(self) -> float:
        """Return the share of the training that was done before this step; 0 outside a Runner."""
        clock = read_clock()
        done, total = self.step.iteration, clock.max_iterations
        if self.momentum_by_epoch and clock.max_epochs:
            done, total = done // (total // clock.max_epochs), clock.max_epochs
        return done / max(total, 1)

    def project(self, features: Tensor) -> Tensor:
        """Return the predictions (N, D) of backbone features."""
        return self.predictor(self.neck(features))

    @torch.no_grad()
    def encode_target(self, view: Tensor, query: Tensor | None, index: Tensor | None) -> Tensor:
        """Return the momentum encoder's projection (N, D) of a view."""
        assert self.momentum_encoder is not None
        return self.momentum_encoder.project(view)
