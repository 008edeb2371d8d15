"""A linear classifier."""

from mmengine.model import normal_init
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.models.heads.base import BaseHead
from unmix.registry import MODELS


@MODELS.register_module()
class ClassificationHead(BaseHead):
    """Linear layer and cross-entropy against labels.

    Weights start at N(0, 0.01), the bias at 0, as in the linear evaluation of
    `MoCo <https://arxiv.org/abs/1911.05722>`_ (Sec. 4.1; the values are the released code's).

    Args:
        in_dim: Feature dimension D.
        num_classes: Number of classes C.
    """

    def __init__(self, in_dim: int, num_classes: int, init_cfg: dict | list[dict] | None = None) -> None:
        super().__init__(init_cfg)
        self.fc = nn.Linear(in_dim, num_classes)
        normal_init(self.fc, std=0.01)

    def logits(self, features: Tensor) -> Tensor:
        """Return the class scores (N, C) of features (N, D)."""
        return self.fc(features)

    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the mean cross-entropy of features (N, D) against labels (N,)."""
        return F.cross_entropy(self.logits(query), target)
