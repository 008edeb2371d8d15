"""Invariance of pairs; variance and covariance of views."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unmix.models.functional.precision import full_precision
from unmix.models.heads.base import BaseHead
from unmix.models.layers.whitening import covariance
from unmix.registry import MODELS
from unmix.utils.dist import concat_all_gather_grad
from unmix.utils.numbers import check_number


@MODELS.register_module()
class VICRegHead(BaseHead):
    """Pull views together; keep the variance of each dimension above 1, and dimensions uncorrelated.

    ``forward = invariance * mean_nd (a_nd - b_nd)^2``; and over the V views, with their unbiased covariance ``C`` over
    the G images of all ranks,

    ``regulariser = mean_v [variance / D * sum_d max(0, 1 - sqrt(C_dd + eps)) + covariance * 2 / D * sum_{d != e}
    C_de^2]``

    (`VICReg <https://arxiv.org/abs/2105.04906>`_, Eqs. 1 to 6, as released: half of the variance term of each view, and
    the sum of the covariance terms.) A mixture has about ``lam^2 + (1 - lam)^2`` of the variance, so Un-Mix mixes the
    invariance only, and weights the regulariser as all pairs together, by ``1 + loss_weight``
    (1 with ``replace``, which adds no pairs).

    Args:
        invariance: Weight of the pair term.
        variance: Weight of the variance term.
        covariance: Weight of the covariance term.
        eps: Added to the variances.

    Raises:
        ValueError: If an argument is negative.
    """

    method = 'VICReg'
    unit_length = False  # variance needs the length

    def __init__(
        self, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0, eps: float = 1e-4
    ) -> None:
        super().__init__()
        given = dict(invariance=invariance, variance=variance, covariance=covariance, eps=eps)
        for name, value in given.items():
            check_number(f'head.{name}', value, least=0)
        self.invariance, self.variance, self.covariance, self.eps = invariance, variance, covariance, eps

    @full_precision
    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the pair term of ``query`` and ``target``, both (N, D)."""
        return self.invariance * F.mse_loss(query, target)

    @full_precision
    def each(self, query: Tensor, target: Tensor, shared: None = None) -> Tensor:
        """Return the pair terms (N,) of ``query`` and ``target``, both (N, D)."""
        return self.invariance * (query - target).square().mean(1)

    def regulariser(self, features: Mapping[Any, Tensor]) -> Tensor:
        """Return the mean of the views' terms of variance and covariance; each view is (N, D)."""
        return torch.stack([self.spread(view) for view in features.values()]).mean()

    @full_precision
    def spread(self, view: Tensor) -> Tensor:
        """Return the terms of variance and covariance of one view (N, D)."""
        _, cov = covariance(concat_all_gather_grad(view))
        variances = cov.diagonal()
        apart = (1 - (variances + self.eps).sqrt()).relu().mean()
        correlated = (cov.square().sum() - variances.square().sum()) / len(cov)
        return self.variance * apart + 2 * self.covariance * correlated
