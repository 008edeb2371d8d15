"""Cross-correlation of the dimensions of two views."""

import torch
from mmengine.dist import get_world_size
from torch import Tensor

from unmix.models.functional.precision import full_precision
from unmix.models.heads.base import BaseHead
from unmix.registry import MODELS
from unmix.utils.dist import sum_over_ranks
from unmix.utils.numbers import check_number


@MODELS.register_module()
class BarlowTwinsHead(BaseHead):
    """Make the cross-correlation of two views the identity.

    ``loss = sum_d (1 - C_dd)^2 + off_diagonal * sum_{d != e} C_de^2``, ``C_de = mean_n s(a)_nd s(b)_ne``

    (`Barlow Twins <https://arxiv.org/abs/2103.03230>`_, Eqs. 1 and 2), where s standardises each dimension by its mean
    and variance; all means are over the samples of all ranks.

    Each rank computes its part of C, and the parts are added. The gradient that DDP averages is that of one process
    with the whole batch; with a sum that has no gradient of its own it would be smaller by the number of ranks.

    Args:
        off_diagonal: Weight of the off-diagonal elements.
        eps: Added to the variances, as in BatchNorm.
        unit_length: Whether features are scaled to unit length before their dimensions are standardised.

    Raises:
        ValueError: If a number is negative.
    """

    method = 'Barlow Twins'
    pools_ranks = True

    def __init__(self, off_diagonal: float = 0.0051, eps: float = 1e-5, unit_length: bool = False) -> None:
        super().__init__()
        check_number('head.off_diagonal', off_diagonal, least=0)
        check_number('head.eps', eps, least=0)
        self.off_diagonal, self.eps, self.unit_length = off_diagonal, eps, unit_length

    @full_precision
    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``query`` and ``target``, both (N, D), of any length."""
        correlation = self.correlation(self.standardise(query), self.standardise(target))
        diagonal = correlation.diagonal()
        off_diagonal = correlation.square().sum() - diagonal.square().sum()
        return (1 - diagonal).square().sum() + self.off_diagonal * off_diagonal

    @full_precision
    def nonlinearity(
        self, lam: float | Tensor, mixture: Tensor, first: Tensor, second: Tensor, *views: Tensor
    ) -> Tensor:
        """Return how far the features of mixtures are from mixtures of features, as the views see them.

        ``off_diagonal * sum_v || C(m, v) - lam C(a, v) - (1 - lam) C(b, v) ||^2``, which is ``C(r, v)`` of one rest
        ``r = s(m) - lam s(a) - (1 - lam) s(b)``.

        Args:
            lam: The share of the first image in each mixture.
            mixture: Features m (N, D) of the mixtures.
            first: Features a (N, D) of the first image of each.
            second: Features b (N, D) of the second.
            *views: Features v (N, D) of views, to correlate with.
        """
        rest = self.standardise(mixture) - lam * self.standardise(first) - (1 - lam) * self.standardise(second)
        errors = [self.correlation(rest, self.standardise(view)).square().sum() for view in views]
        return self.off_diagonal * torch.stack(errors).sum()

    def correlation(self, one: Tensor, other: Tensor) -> Tensor:
        """Return the mean of ``one_d other_e`` (D, D) over the samples of all ranks; both are (N, D)."""
        return sum_over_ranks(one.T @ other) / (len(one) * get_world_size())

    def standardise(self, view: Tensor) -> Tensor:
        """Return the samples (N, D) less the mean of those of all ranks, over their standard deviation."""
        size = len(view) * get_world_size()
        centred = view - sum_over_ranks(view.sum(0)) / size
        variance = sum_over_ranks(centred.square().sum(0)) / size
        return centred * (variance + self.eps).rsqrt()
