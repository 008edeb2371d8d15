"""Contrastive loss against a queue and the batch."""

import math
from typing import Any

import torch
from mmengine.dist import get_rank
from torch import Tensor

from unmix.models.functional.precision import full_precision
from unmix.models.heads.info_nce import InfoNCEHead, contrast
from unmix.models.layers import read_temperature
from unmix.registry import MODELS
from unmix.utils.dist import concat_all_gather


@MODELS.register_module()
class BatchInfoNCEHead(InfoNCEHead):
    """Find each query's key among the keys of the batch, of all ranks, and those of the queue.

    ``loss = mean_n -log softmax([q_n . k_1, ..., q_n . k_G, q_n . queue_1, ..., q_n . queue_K] / temperature)[n]``

    (`i-Mix <https://arxiv.org/abs/2010.08887>`_, Sec. 3.3 on MoCo.) So the key of either image of a mixture is a
    negative while the other one is the positive. The arguments are those of :class:`InfoNCEHead`.
    """

    chance_loss = None  # ln(G + K), of the G images of a batch, which the head does not know

    @full_precision
    def prepare(self, target: Tensor) -> Tensor:
        """Return the keys (G, D) of all ranks, given this rank's (N, D)."""
        return concat_all_gather(target)

    @full_precision
    def each(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the losses (N,) of queries (N, D) against the keys (G, D) of :meth:`prepare`."""
        own = (len(query) * get_rank() + torch.arange(len(query), device=query.device))[:, None]
        logits = query @ target.T / read_temperature(self.temperature)
        others = logits.scatter(1, own, -math.inf).logsumexp(1)
        queue = self.shared(query) if shared is None else shared
        return contrast(torch.logaddexp(others, queue), logits.gather(1, own)[:, 0])

    def terms(self, query: Tensor, target: Tensor, shared: Any = None) -> Tensor:
        """Return the loss of queries (N, D) against the keys (G, D) of :meth:`prepare`."""
        return self.each(query, target, shared).mean()

    def forward(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the loss of L2-normalised ``query`` and keys ``target``, both (N, D)."""
        return self.terms(query, self.prepare(target), shared)
