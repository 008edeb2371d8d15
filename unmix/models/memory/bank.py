"""A memory bank: one stored feature per instance."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.utils.dist import concat_all_gather

INITS = ('unit', 'columns', 'uniform')


class MemoryBank(nn.Module):
    """A moving average of each instance's feature (`InstDisc <https://arxiv.org/abs/1805.01978>`_, Sec. 3.1).

    ``bank[i] <- normalise(momentum * bank[i] + (1 - momentum) * feature_i)``

    The features of all ranks are written on every rank. If an instance occurs twice in a batch, the last one counts.

    Args:
        num_instances: Number of instances.
        dim: Feature dimension D.
        momentum: Share of the old feature that stays, in [0, 1].
        init: ``'unit'``: random unit rows. ``'columns'``: columns are normalised, so rows have the length
            sqrt(dim / num_instances) on average, as in the PIC repository. ``'uniform'``: rows are uniform in a cube
            and have unit length on average, as in the CMC repository.
        sync: Whether the features of the other ranks are written too. With False the banks of the ranks differ, as in
            the PIC repository; only to reproduce its figures.

    Attributes:
        features: (num_instances, D), written in place by :meth:`update`.

    Raises:
        ValueError: If ``init`` is not one of these, or the momentum is outside [0, 1].
    """

    features: Tensor

    def __init__(
        self, num_instances: int, dim: int, momentum: float = 0.5, init: str = 'unit', sync: bool = True
    ) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f'head.momentum is {momentum}; the share of the old feature that stays lies in [0, 1].')
        if init not in INITS:
            raise ValueError(f'head.bank_init is {init!r}; it is one of {INITS}.')
        self.num_instances, self.momentum, self.sync = num_instances, momentum, sync
        if init == 'uniform':
            features = (2 * torch.rand(num_instances, dim) - 1) * math.sqrt(3 / dim)
        else:
            features = F.normalize(torch.randn(num_instances, dim), dim=1 if init == 'unit' else 0)
        self.register_buffer('features', features)

    def numbers(self, num_rows: int) -> int:
        """Return how many numbers :meth:`scores` stores for a query with ``num_rows`` rows."""
        return min(self.num_instances, num_rows * self.features.shape[1])

    def scores(self, query: Tensor, rows: Tensor) -> Tensor:
        """Return the inner products (N, R) of queries (N, D) with their own ``rows`` (N, R) of the bank.

        Either the product with the whole bank is computed and the rows are picked from it, or the features of the rows
        are gathered first, whichever needs less memory.
        """
        if self.num_instances == self.numbers(rows.shape[1]):
            return (query @ self.features.T).gather(1, rows)
        return torch.einsum('nrd,nd->nr', self.features[rows], query)

    @torch.no_grad()
    def update(self, index: Tensor, features: Tensor) -> None:
        """Move the rows ``index`` (N,) towards ``features`` (N, D), with ``sync`` for the batches of all ranks."""
        if self.sync:
            index, features = concat_all_gather(index), concat_all_gather(features)
        # All copies of an instance write the value of the last copy, so the order of writes does not matter.
        place = torch.arange(len(index), device=index.device)
        last = torch.where(index[:, None] == index, place, -1).amax(1)
        features = features.detach().to(self.features.dtype)[last]
        moved = self.momentum * self.features[index] + (1 - self.momentum) * features
        self.features.index_copy_(0, index, F.normalize(moved, dim=1))
