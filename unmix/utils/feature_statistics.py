"""Statistics of features that need no labels. Shapes: N samples, D features, K rows of a memory."""

import math

import torch
from torch import Tensor

_MEMORY_ROWS = 65536


def spread(features: Tensor) -> Tensor:
    """Return ``sqrt(D) * mean_d std_n(z_nd)`` of unit rows (N, D): 1 if they fill the sphere, 0 if they are one point.

    (`SimSiam <https://arxiv.org/abs/2011.10566>`_, Sec. 4.1, which plots it without the factor.) Population statistics.
    """
    return math.sqrt(features.shape[1]) * features.std(0, correction=0).mean()


def effective_rank(features: Tensor) -> Tensor:
    """Return ``exp(-sum_k p_k ln p_k)``, ``p_k = s_k / sum(s) + 1e-7``, of the singular values ``s`` of (N, D).

    (`RankMe <https://arxiv.org/abs/2210.02885>`_, Eq. 1.) At most min(N, D); nothing is centred, so one point has 1.
    """
    values = torch.linalg.svdvals(features)
    shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny) + 1e-7
    return (-(shares * shares.log()).sum()).exp()


def similarities(features: Tensor, partners: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean inner product of row n with partner n, and with partners m != n; both (N, D), unit rows."""
    own = (features * partners).sum(1)
    others = (features.sum(0) * partners.sum(0)).sum() - own.sum()
    return own.mean(), others / max(len(own) * (len(own) - 1), 1)


def memory_statistics(features: Tensor, memory: Tensor, name: str) -> dict[str, Tensor]:
    """Return ``{name}_norm``, the mean length of rows of a ``memory`` (K, D), and ``{name}_similarity``, their mean
    cosine with unit ``features`` (N, D); over the first 65,536 rows.
    """
    memory = memory[:_MEMORY_ROWS].to(features.dtype)
    norm = memory.norm(dim=1)
    direction = (memory / norm.clamp(min=torch.finfo(norm.dtype).tiny)[:, None]).mean(0)
    return {f'{name}_norm': norm.mean(), f'{name}_similarity': (features.mean(0) * direction).sum()}


def usage_entropy(scores: Tensor) -> Tensor:
    """Return the entropy of how often each of K prototypes is the nearest, of scores (N, K), over ``ln min(N, K)``.

    1: all prototypes are used alike (as far as N samples can); 0: one has all samples.
    """
    count = torch.zeros_like(scores[0]).index_add_(0, scores.argmax(1), torch.ones_like(scores[:, 0]))
    shares = count / len(scores)
    return -torch.xlogy(shares, shares).sum() / max(math.log(min(scores.shape)), math.log(2))
