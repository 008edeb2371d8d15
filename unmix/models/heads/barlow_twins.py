"""Cross-correlation of the dimensions of two views."""

from mmengine.dist import get_world_size
from torch import Tensor

from unmix.models.functional.precision import full_precision
from unmix.models.heads.base import BaseHead
from unmix.registry import MODELS
from unmix.utils.dist import sum_over_ranks


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
    """

    method = 'Barlow Twins'
    unit_length = False  # dimensions are standardised over the batch
    pools_ranks = True

    def __init__(self, off_diagonal: float = 0.0051, eps: float = 1e-5) -> None:
        super().__init__()
        self.off_diagonal, self.eps = off_diagonal, eps

    @full_precision
    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``query`` and ``target``, both (N, D), of any length."""
        part = self.standardise(query).T @ self.standardise(target)
        correlation = sum_over_ranks(part) / (len(query) * get_world_size())
        diagonal = correlation.diagonal()
        off_diagonal = correlation.square().sum() - diagonal.square().sum()
        return (1 - diagonal).square().sum() + self.off_diagonal * off_diagonal

    def standardise(self, view: Tensor) -> Tensor:
        """Return the samples (N, D) less the mean of those of all ranks, over their standard deviation."""
        size = len(view) * get_world_size()
        centred = view - sum_over_ranks(view.sum(0)) / size
        variance = sum_over_ranks(centred.square().sum(0)) / size
        return centred * (variance + self.eps).rsqrt()
