"""Contrastive loss against the keys of the batch."""

from typing import Any

import torch
from mmengine.dist import get_rank
from torch import Tensor
from torch.nn import functional as F

from unmix.models.functional.precision import full_precision
from unmix.models.heads.base import BaseHead
from unmix.models.layers import Temperature, build_temperature, read_temperature
from unmix.registry import MODELS
from unmix.utils.dist import concat_all_gather


@MODELS.register_module()
class MoCoV3Head(BaseHead):
    """Find each query's key among the keys of the batch, of all ranks.

    ``loss = 2 temperature * mean_n -log softmax([q_n . k_1, ..., q_n . k_G] / temperature)[n]``, of directions
    (`MoCo v3 <https://arxiv.org/abs/2104.02057>`_, Eq. 1 and Alg. 1). Queries are predictions, keys the momentum
    encoder's projections: the step is :class:`BYOL`'s, which adds both directions up. Keys have no gradient.

    Args:
        temperature: Softmax temperature; 1 for ResNets, 0.2 for ViTs. Or a config, as in :class:`InfoNCEHead`.
    """

    method = 'MoCo v3'

    def __init__(self, temperature: Temperature | dict[str, Any] = 1.0) -> None:
        super().__init__()
        self.temperature = build_temperature(temperature)

    @full_precision
    def prepare(self, target: Tensor) -> Tensor:
        """Return the keys (G, D) of all ranks at unit length, given this rank's (N, D)."""
        return F.normalize(concat_all_gather(target), dim=1)

    @full_precision
    def terms(self, query: Tensor, target: Tensor, shared: None = None) -> Tensor:
        """Return the loss of queries (N, D), of any length, against the keys (G, D) of :meth:`prepare`."""
        return 2 * read_temperature(self.temperature) * F.cross_entropy(*self._logits(query, target))

    @full_precision
    def each(self, query: Tensor, target: Tensor, shared: None = None) -> Tensor:
        """Return the losses (N,) of queries (N, D), of any length, against the keys (G, D) of :meth:`prepare`."""
        return 2 * read_temperature(self.temperature) * F.cross_entropy(*self._logits(query, target), reduction='none')

    def _logits(self, query: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N, G) and the places (N,) of the own keys."""
        labels = len(query) * get_rank() + torch.arange(len(query), device=query.device)
        return F.normalize(query, dim=1) @ target.T / read_temperature(self.temperature), labels

    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the loss of queries and keys, both (N, D), of any length."""
        return self.terms(query, self.prepare(target))
