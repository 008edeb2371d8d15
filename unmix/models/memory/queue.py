"""A first-in-first-out memory of features."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.utils.dist import concat_all_gather
from unmix.utils.journal import Journal


class FeatureQueue(nn.Module):
    """The last ``size`` features, of all ranks, as buffers (`MoCo <https://arxiv.org/abs/1911.05722>`_, Sec. 3.2).

    Starts with random unit vectors. Takes batches of any size up to its own: it wraps around (the released code needs a
    batch that divides the queue).

    Args:
        size: Number of features K.
        dim: Feature dimension D.

    Attributes:
        features: (K, D); written in place, so no graph may keep it: see :func:`bank_lse`, :func:`eager_gradient`.
        pointer: Row of the oldest feature, () int64.
    """

    journaled = ('features',)
    features: Tensor
    pointer: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f'queue_size is {size}; a queue holds at least one feature.')
        self.size, self.journal = size, Journal()
        self.register_buffer('features', F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer('pointer', torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, features: Tensor) -> None:
        """Replace the oldest rows by ``features`` (N, D) of every rank, in rank order.

        Raises:
            ValueError: If they are more than the queue has rows.
        """
        features = concat_all_gather(features).to(self.features.dtype)
        if len(features) > self.size:
            raise ValueError(
                f'model.head.queue_size is {self.size}, but a batch of all processes has {len(features)} features. Set '
                f'it to {len(features)} or more; several batches are usual, and up to a quarter of the data set.'
            )
        rows = (self.pointer + torch.arange(len(features), device=features.device)) % self.size
        self.journal.write(self.features, 0, rows, features)
        self.pointer = (self.pointer + len(features)) % self.size
