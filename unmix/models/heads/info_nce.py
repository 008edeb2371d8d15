"""Contrastive loss against a queue of negatives."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unmix.models.functional import bank_lse
from unmix.models.functional.precision import full_precision
from unmix.models.heads.base import BaseHead
from unmix.models.layers import Temperature, build_temperature, read_temperature
from unmix.models.memory.queue import FeatureQueue
from unmix.registry import MODELS
from unmix.utils.feature_statistics import memory_statistics
from unmix.utils.numbers import check_sizes
from unmix.utils.sizes import SMALL, Misfit, Sizes


def contrast(negatives: Tensor, positive: Tensor) -> Tensor:
    """Return ``-log(e^positive_n / (e^positive_n + e^negatives_n))`` (N,) of logits and log-sum-exps, (N,) each."""
    return torch.logaddexp(torch.zeros_like(positive), negatives - positive)


def queue_for(sizes: Sizes) -> int:
    """Return the largest queue of whole batches that is at most a quarter of the data set; 0 if there is none.

    Of few images it is one small batch.
    """
    most = max(sizes.images // 4, sizes.batch if sizes.batch <= SMALL else 0)
    return min(most, sizes.images) // sizes.batch * sizes.batch


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
        check_sizes('head', dim=dim, queue_size=queue_size)
        self.temperature = build_temperature(temperature)
        self.queue = FeatureQueue(queue_size, dim)

    @property
    def chance_loss(self) -> float | None:
        """Loss of features that are the same for all images, ln(K + 1)."""
        return math.log(self.queue.size + 1)

    def misfits(self, sizes: Sizes) -> list[Misfit]:
        """Return a queue that is shorter than a batch, or longer than the data set."""
        found, own = super().misfits(sizes), f'model.head.queue_size is {self.queue.size}, but '
        if self.queue.size < sizes.batch:
            found.append(Misfit(f'{own}a batch of all processes has {sizes.batch} images', fatal=True))
        if self.queue.size > sizes.most:
            found.append(
                Misfit(
                    f'{own}the training data set has only {sizes.images} images: the queue holds keys of the very '
                    'images that it should be negatives of'
                )
            )
        return found

    def suitable(self, sizes: Sizes) -> dict[str, int] | None:
        """Return a queue of whole batches, of a quarter of the data set; None if a batch is more than that."""
        options = super().suitable(sizes)
        if options is None or sizes.batch <= self.queue.size <= sizes.most:
            return options
        return options | {'model.head.queue_size': queue_for(sizes)} if queue_for(sizes) else None

    @full_precision
    def shared(self, query: Tensor) -> Tensor | None:
        """Return the log-sum-exp (N,) of the queue's logits."""
        return bank_lse(query, self.queue.features, 1 / read_temperature(self.temperature))

    @full_precision
    def each(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the losses (N,) of L2-normalised ``query`` and keys ``target``, both (N, D)."""
        negatives = self.shared(query) if shared is None else shared
        return contrast(negatives, (query * target).sum(1) / read_temperature(self.temperature))

    def forward(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the loss of L2-normalised ``query`` and keys ``target``, both (N, D)."""
        return self.each(query, target, shared).mean()

    def update(self, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        """Enqueue the keys of all views, in the order of the views: of all ranks one view after the other."""
        for view in sorted(targets):
            self.queue.enqueue(targets[view])

    def health(self, features: Tensor) -> dict[str, Tensor]:
        """Return the norm of the queue's rows and their similarity to unit ``features`` (N, D), on average."""
        return memory_statistics(features, self.queue.features, 'queue')
