"""The logits of the released codes, as tables: what our losses are computed from without making them."""

import math

import torch
from torch import Tensor

from unmix.models import InfoNCEHead, NTXentHead


def moco_logits(head: InfoNCEHead, query: Tensor, key: Tensor, queue: Tensor | None = None) -> Tensor:
    """(N, 1 + K): the similarity to the key first, then to the queue, divided by the temperature."""
    rows = head.queue.features if queue is None else queue
    return torch.cat([(query * key).sum(1, keepdim=True), query @ rows.T], dim=1) / head.temperature


def nt_xent_logits(head: NTXentHead, query: Tensor, target: Tensor) -> Tensor:
    """(2 N, 2 G): queries to all targets and all queries, targets to all queries and all targets; -inf to itself."""
    queries, targets = head.gather(torch.stack([query, target], dim=1)).unbind(1)
    itself = head.labels(query)[:, None] == torch.arange(len(queries), device=queries.device)
    rows = []
    for a, others, same in ((query, targets, queries), (target, queries, targets)):
        rows.append(torch.cat([a @ others.T, (a @ same.T).masked_fill(itself, -math.inf)], dim=1))
    return torch.cat(rows) / head.temperature
