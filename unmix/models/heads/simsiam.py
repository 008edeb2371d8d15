"""Prediction of a projection that stands still."""

from torch import Tensor, nn
from torch.nn import functional as F

from unmix.models.functional.precision import full_precision
from unmix.models.heads.base import BaseHead
from unmix.registry import MODELS
from unmix.utils.numbers import check_sizes


def build_predictor(dim: int, hidden_dim: int) -> nn.Sequential:
    """Return a predictor (N, dim) -> (N, dim) of two layers for a head: its BatchNorm has no running statistics."""
    check_sizes('head', dim=dim, hidden_dim=hidden_dim)
    return nn.Sequential(
        nn.Linear(dim, hidden_dim, bias=False),
        nn.BatchNorm1d(hidden_dim, track_running_stats=False),  # so that a call changes nothing
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, dim),
    )


@MODELS.register_module()
class SimSiamHead(BaseHead):
    """Predict each projection from the other one, which stands still.

    ``loss = -1/2 mean_n [cos(p(a_n), stop(b_n)) + cos(p(b_n), stop(a_n))]``
    (`SimSiam <https://arxiv.org/abs/2011.10566>`_, Eqs. 1 to 4), with a = query, b = target and the predictor p.

    Args:
        dim: Dimension D of the projections.
        hidden_dim: Hidden dimension of the predictor.
    """

    method = 'SimSiam'  # its name in tables and reports; without it that of the algorithm, SimCLR
    unit_length = False  # the predictor gets projections as they are

    def __init__(self, dim: int = 2048, hidden_dim: int = 512) -> None:
        super().__init__()
        self.predictor = build_predictor(dim, hidden_dim)

    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the loss of projections ``query`` and ``target``, both (N, D), of any length."""
        return -(self.agreement(self.predictor(query), target) + self.agreement(self.predictor(target), query)) / 2

    @full_precision
    def agreement(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the mean cosine of predictions and targets, both (N, D); the targets get no gradient."""
        return F.cosine_similarity(prediction, target.detach(), dim=1).mean()
