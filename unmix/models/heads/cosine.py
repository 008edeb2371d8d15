"""Distance between directions."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from unmix.models.functional.precision import full_precision
from unmix.models.heads.base import BaseHead
from unmix.registry import MODELS


@MODELS.register_module()
class CosineHead(BaseHead):
    """Squared distance of directions: ``loss = 2 - 2 mean_n cos(q_n, t_n)`` (`BYOL <https://arxiv.org/abs/2006.07733>`_,
    Eq. 2).

    Args:
        normalize: Compare directions; otherwise ``loss = mean_{n, d} (q_nd - t_nd)^2``.
    """

    def __init__(self, normalize: bool = True, init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None) -> None:
        super().__init__(init_cfg)
        self.normalize = normalize

    @full_precision
    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``query`` and ``target``, both (N, D), of any length."""
        if not self.normalize:
            return F.mse_loss(query, target)
        return 2 - 2 * (F.normalize(query, dim=-1) * F.normalize(target, dim=-1)).sum(-1).mean()

    @full_precision
    def each(self, query: Tensor, target: Tensor, shared: None = None) -> Tensor:
        """Return the losses (N,) of ``query`` and ``target``, both (N, D), of any length."""
        if not self.normalize:
            return (query - target).square().mean(1)
        return 2 - 2 * (F.normalize(query, dim=1) * F.normalize(target, dim=1)).sum(1)
