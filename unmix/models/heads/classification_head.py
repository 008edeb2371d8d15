"""Linear classifiers."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import normal_init
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.models.heads.base import BaseHead
from unmix.registry import MODELS


@MODELS.register_module()
class ClassificationHead(BaseHead):
    """Linear layer and cross-entropy against labels, or one such layer per learning rate on the same features.

    Weights start at N(0, 0.01), the bias at 0, as in the linear evaluation of
    `MoCo <https://arxiv.org/abs/1911.05722>`_ (Sec. 4.1; the values are the released code's).

    With ``lrs`` the loss is the sum of the layers' losses. On frozen features that is each layer's own training: none
    sees another one's gradient. The layers start alike; the optimiser gives each its rate
    (``paramwise_cfg.custom_keys`` of ``head.fc.0.``, ``head.fc.1.``, ...).

    Args:
        in_dim: Feature dimension D.
        num_classes: Number of classes C.
        std: Of the initial weights; None: PyTorch's initialisation, weight and bias.
        lrs: Learning rates L, for the names ``lr30``, ``lr0.1``, ... of the results. None: one layer.

    Attributes:
        names: Of the layers; none if there is only one.
    """

    def __init__(
        self,
        in_dim: int,
        num_classes: int,
        std: float | None = 0.01,
        lrs: Sequence[float] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_classes = num_classes
        first = nn.Linear(in_dim, num_classes)
        if std is not None:
            normal_init(first, std=std)
        self.names = tuple(f'lr{lr:g}' for lr in lrs or ())
        self.fc: nn.Module = first
        if lrs is not None:
            self.fc = nn.ModuleList(nn.Linear(in_dim, num_classes) for _ in lrs)
            for layer in self.fc:
                layer.load_state_dict(first.state_dict())

    def logits(self, features: Tensor) -> Tensor:
        """Return the class scores (N, C) of features (N, D); of several layers (N, L, C)."""
        if isinstance(self.fc, nn.ModuleList):
            return torch.stack([layer(features) for layer in self.fc], 1)
        return self.fc(features)

    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy of features (N, D) against labels (N,), summed over the layers."""
        scores = self.logits(query)
        if scores.ndim == 2:
            return F.cross_entropy(scores, target)
        return torch.stack([F.cross_entropy(one, target) for one in scores.unbind(1)]).sum()
