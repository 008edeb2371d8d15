"""A projector for each branch."""

from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from unmix.registry import MODELS


@MODELS.register_module()
class TwoBranchNeck(BaseModule):
    """Project each half of the features of :class:`TwoBranch` by its own neck: (N, 2 * in) -> (N, 2 * out).

    Args:
        neck: Config of the necks, of the dimensions of one branch.
    """

    def __init__(self, neck: dict[str, Any], init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None) -> None:
        super().__init__(init_cfg)
        self.necks = nn.ModuleList(MODELS.build(dict(neck)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Project ``x`` (N, 2 * in)."""
        return torch.cat([neck(half) for neck, half in zip(self.necks, x.chunk(2, 1), strict=True)], dim=1)
