"""Drawing from a discrete distribution in constant time."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AliasTable(nn.Module):
    """Walker's alias method: cell i holds the share ``prob[i]`` of i itself, and else ``alias[i]``.

    Cells are paired as in the CMC repository, from the ends of the lists of small and of large ones, so the tables are
    the same; for equal weights all shares are 1, and a draw is a uniform integer.

    Args:
        weights: (n,) non-negative; their sum need not be 1.

    Raises:
        ValueError: If one is negative, or all are 0.
    """

    prob: Tensor
    alias: Tensor

    def __init__(self, weights: Sequence[float] | Tensor) -> None:
        super().__init__()
        weights = torch.as_tensor(weights)
        if weights.ndim != 1 or not bool((weights >= 0).all()) or not weights.sum() > 0:
            raise ValueError('head.negative_weights are one non-negative number for each instance, not all 0.')
        share = (len(weights) * weights / weights.sum()).tolist()
        alias = [0] * len(share)
        small = [i for i, value in enumerate(share) if value < 1]
        large = [i for i, value in enumerate(share) if value >= 1]
        while small and large:
            below, above = small.pop(), large.pop()
            alias[below] = above
            share[above] = share[above] - 1 + share[below]
            (small if share[above] < 1 else large).append(above)
        for rest in small + large:
            share[rest] = 1.0
        self.register_buffer('prob', torch.tensor(share, dtype=weights.dtype), persistent=False)
        self.register_buffer('alias', torch.tensor(alias), persistent=False)

    def forward(self, cells: Tensor, uniform: Tensor) -> Tensor:
        """Return the draws for uniform integers ``cells`` in [0, n) and uniform numbers in [0, 1)."""
        return torch.where(uniform < self.prob[cells], cells, self.alias[cells])
