"""Contrastive loss against a queue of negatives."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unmix.models.functional import bank_lse
from unmix.models.heads.base import BaseHead
from unmix.models.layers import Temperature, build_temperature, read_temperature
from unmix.models.memory.queue import FeatureQueue
from unmix.registry import MODELS
from unmix.utils.feature_statistics import memory_statistics
from unmix.utils.precision import full_precision


def contrast(negatives: Tensor, positive: Tensor) -> Tensor:
    """Return ``mean_n -log(e^positive_n / (e^positive_n + e^negatives_n))`` of logits and log-sum-exps, (N,) each."""
    return torch.logaddexp(torch.zeros_like(positive), negatives - positive).mean()


@MODELS.register_module()
class InfoNCEHead(BaseHead):
    """Find each query's key among the keys of other images.

    ``loss = mean_n -log softmax([q_n . k_n, q_n . queue_1, ..., q_n . queue_K] / temperature)[0]``
    (`MoCo <https://arxiv.org/abs/1911.05722>`_, Eq. 1), in one pass through the queue, see :func:`bank_lse`, for all
    keys that a query meets. Mixtures use the same temperature: the released ImageNet code
    stores a second one and never reads it.

    Args:
        dim: Feature dimension D.
        queue_size: Number of negatives K, at least the batch of all processes; see :class:`FeatureQueue`.
        temperature: Softmax temperature; MoCo v1 0.07, v2 0.2, CIFAR 0.1. A number, or the config of a module that
            returns it, such as :class:`LearnableTemperature`.
    """

    def __init__(
        self,
        dim: int = 128,
        queue_size: int = 65536,
        temperature: Temperature | dict[str, Any] = 0.2,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.temperature = build_temperature(temperature)
        self.queue = FeatureQueue(queue_size, dim)

    @property
    def chance_loss(self) -> float | None:
        """Loss of features that are the same for all images, ln(K + 1)."""
        return math.log(self.queue.size + 1)

    @full_precision
    def shared(self, query: Tensor) -> Tensor | None:
        """Return the log-sum-exp (N,) of the queue's logits."""
        return bank_lse(query, self.queue.features, 1 / read_temperature(self.temperature))

    @full_precision
    def forward(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the loss of L2-normalised ``query`` and keys ``target``, both (N, D)."""
        negatives = self.shared(query) if shared is None else shared
        return contrast(negatives, (query * target).sum(1) / read_temperature(self.temperature))

    def update(self, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        """Enqueue the keys of all views, in the order of the views: of all ranks one view after the other."""
        for view in sorted(targets):
            self.queue.enqueue(targets[view])

    def health(self, features: Tensor) -> dict[str, Tensor]:
        """Return the norm of the queue's rows and their similarity to unit ``features`` (N, D), on average."""
        return memory_statistics(features, self.queue.features, 'queue')
