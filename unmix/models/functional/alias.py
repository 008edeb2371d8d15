"""Draw from a discrete distribution in constant time."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AliasTable(nn.Module):
    """Walker's alias method: a draw from cell i is i with probability ``prob[i]``, else ``alias[i]``.

    Small and large cells are paired from the ends of their lists, as in the CMC repository, so the tables are equal to
    its tables. For equal weights every probability is 1, and a draw is a uniform integer.

    Args:
        weights: (n,) non-negative; they are divided by their sum.

    Attributes:
        prob: (n,), in [0, 1].
        alias: (n,) int64.

    Raises:
        ValueError: If a weight is negative, or all are 0.
    """

    prob: Tensor
    alias: Tensor

    def __init__(self, weights: Sequence[float] | Tensor) -> None:
        super().__init__()
        weights = torch.as_tensor(weights)
        if weights.ndim != 1 or not bool((weights >= 0).all()) or not weights.sum() > 0:
            raise ValueError('head.negative_weights must be one non-negative number for each instance, and not all 0.')
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
        """Return a draw, in the shape of ``cells``, for each pair of uniform random inputs.

        Args:
            cells: Integers in [0, n), of any shape.
            uniform: Numbers in [0, 1), of the same shape.
        """
        return torch.where(uniform < self.prob[cells], cells, self.alias[cells])
