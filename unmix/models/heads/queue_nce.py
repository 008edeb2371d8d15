"""Noise-contrastive estimation with a queue."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unmix.models.functional import eager_gradient
from unmix.models.functional.precision import full_precision
from unmix.models.heads.info_nce import InfoNCEHead
from unmix.models.layers import divide_query, read_temperature
from unmix.models.layers.noise_contrast import build_contrast, chunk_size
from unmix.registry import MODELS


@MODELS.register_module()
class QueueNCEHead(InfoNCEHead):
    """MoCo's queue with the noise-contrastive loss: the ``nce`` form of MoCo in the CMC repository.

    Its ``softmax`` form is :class:`InfoNCEHead`. The released code cuts Z to an integer (``truncate=True``).

    Args:
        num_instances: Number of training images.
        truncate: See :class:`NoiseContrast`.
        **kwargs: As in :class:`InfoNCEHead`.
    """

    remembers_queries = True  # for Z

    def __init__(self, num_instances: int, truncate: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.contrast = build_contrast('nce', num_instances, truncate)

    @property
    def chance_loss(self) -> None:
        """None: this loss has no such value."""

    def scores(self, query: Tensor, target: Tensor) -> Tensor:
        """Return (N, 1 + K): the similarity to the key first, then to the queue, divided by the temperature."""
        return self._products(query, target) / read_temperature(self.temperature)

    def _products(self, query: Tensor, target: Tensor) -> Tensor:
        positive = (query * target).sum(1, keepdim=True)
        return torch.cat([positive, query @ self.queue.features.T], dim=1)

    def shared(self, query: Tensor) -> Tensor | None:
        """None: this loss has no common part."""
        return None

    @full_precision
    def each(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the losses (N,) of L2-normalised ``query`` and keys ``target``, both (N, D)."""
        size = chunk_size(query, 1 + self.queue.size, [self.contrast])
        query, temperature = divide_query(query, read_temperature(self.temperature))

        def losses(part: Tensor, samples: slice) -> Tensor:
            return self.contrast(self._products(part, target[samples]) / temperature)

        return eager_gradient(losses, query, size)

    @torch.no_grad()
    def update(self, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        """Set Z from the first pair of the first step, and enqueue the keys."""
        if self.contrast.pending:
            self._settle(next(iter(queries.values())), next(iter(targets.values())))
        super().update(queries, targets)

    @full_precision
    def _settle(self, query: Tensor, key: Tensor) -> None:
        self.contrast.settle(self.scores(query, key))  # type: ignore[operator]
