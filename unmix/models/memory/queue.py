"""A first-in-first-out memory of features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.utils.dist import concat_all_gather


class FeatureQueue(nn.Module):
    """The last ``size`` features, of all ranks, as buffers (`MoCo <https://arxiv.org/abs/1911.05722>`_, Sec. 3.2).

    Starts with random unit vectors. Takes batches of any size up to its own: it wraps around (the released code needs a
    batch that divides the queue).

    Args:
        size: Number of features K.
        dim: Feature dimension D.

    Attributes:
        features: (K, D); written in place after the step.
        pointer: Row of the oldest feature, () int64.
    """

    features: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f'queue_size is {size}; a queue holds at least one feature.')
        self.size = size
        self.register_buffer('features', F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer('pointer', torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, features: Tensor) -> None:
        """Replace the oldest rows by ``features`` (N, D) of every rank, in rank order.

        Raises:
            ValueError: If they are more than the queue has rows.
        """
        features = concat_all_gather(features).to(self.features.dtype)
        self.features.index_copy_(0, self._oldest(self.pointer, len(features)), features)
        self.pointer = (self.pointer + len(features)) % self.size

    @torch.no_grad()
    def after(self, pushed: Sequence[Tensor]) -> Tensor:
        """Return the features (K, D) as they would be after these were enqueued; the queue stays as it is."""
        features, pointer = self.features, self.pointer
        for push in pushed:
            rows = concat_all_gather(push).to(features.dtype)
            features = features.index_copy(0, self._oldest(pointer, len(rows)), rows)
            pointer = pointer + len(rows)
        return features

    def _oldest(self, pointer: Tensor, count: int) -> Tensor:
        if count > self.size:
            raise ValueError(
                f'model.head.queue_size is {self.size}, but a batch of all processes has {count} features. Set '
                f'it to {count} or more; several batches are usual, and up to a quarter of the data set.'
            )
        return (pointer + torch.arange(count, device=pointer.device)) % self.size
