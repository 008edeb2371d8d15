"""A first-in-first-out memory of features."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.utils.dist import concat_all_gather


class FeatureQueue(nn.Module):
    """The last ``size`` features, of all ranks, as buffers (`MoCo <https://arxiv.org/abs/1911.05722>`_, Sec. 3.2).

    Starts with random unit vectors. Takes batches of any size: it wraps around, and of a batch longer than the queue
    the last ``size`` rows stay (the released code needs a batch that divides the queue).

    Args:
        size: Number of features K.
        dim: Feature dimension D.

    Attributes:
        features: (K, D); replaced, never written in place, because the graph of the running step reads it.
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
        """Replace the oldest rows by ``features`` (N, D) of every rank, in rank order."""
        features = concat_all_gather(features).to(self.features.dtype)
        skipped = max(len(features) - self.size, 0)
        rows = torch.arange(skipped, len(features), device=features.device)
        rows = (self.pointer + rows) % self.size
        self.features = self.features.index_copy(0, rows, features[skipped:])
        self.pointer = (self.pointer + skipped + len(rows)) % self.size
