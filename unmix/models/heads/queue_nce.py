"""Noise-contrastive estimation with a queue."""

from collections.abc import Mapping

import torch
from torch import Tensor

from unmix.models.functional import eager_gradient
from unmix.models.heads.info_nce import InfoNCEHead
from unmix.models.layers.noise_contrast import build_contrast, chunk_size
from unmix.registry import MODELS
from unmix.utils.precision import full_precision


@MODELS.register_module()
class QueueNCEHead(InfoNCEHead):
    """MoCo's queue with the noise-contrastive loss: the ``nce`` form of MoCo in the CMC repository.

    Its ``softmax`` form is :class:`InfoNCEHead`. The released code cuts Z to an integer (``truncate=True``).

    Args:
        num_instances: Number of training images.
        truncate: See :class:`NoiseContrast`.
        **kwargs: As in :class:`InfoNCEHead`.
    """

    def __init__(self, num_instances: int, truncate: bool = False, **kwargs: int | float | dict | None) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.contrast = build_contrast('nce', num_instances, truncate)

    @property
    def chance_loss(self) -> None:
        """Unknown for this loss."""

    def scores(self, query: Tensor, target: Tensor) -> Tensor:
        """Return (N, 1 + K): the similarity to the key first, then to the queue, divided by the temperature."""
        positive = (query * target).sum(1, keepdim=True)
        return torch.cat([positive, query @ self.queue.features.T], dim=1) / self.temperature

    def shared(self, query: Tensor) -> Tensor | None:
        """Nothing: this is no log-sum-exp."""
        return None

    @full_precision
    def forward(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the loss of L2-normalised ``query`` and keys ``target``, both (N, D)."""
        size = chunk_size(len(query), 1 + self.queue.size, [self.contrast])
        return eager_gradient(
            lambda part, samples: self.contrast(self.scores(part, target[samples])), query, size
        ).mean()

    @torch.no_grad()
    def update(self, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        """Settle Z in the first step, by the first pair, and enqueue the keys."""
        if self.contrast.pending:
            self._settle(next(iter(queries.values())), next(iter(targets.values())))
        super().update(queries, targets)

    @full_precision
    def _settle(self, query: Tensor, key: Tensor) -> None:
        self.contrast.settle(self.scores(query, key))  # type: ignore[operator]
