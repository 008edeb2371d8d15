"""Alignment and uniformity."""

import math
from typing import Any

import torch
from mmengine.dist import get_rank
from torch import Tensor

from unmix.models.functional import bank_lse
from unmix.models.functional.precision import full_precision
from unmix.models.heads.base import BaseHead
from unmix.models.heads.info_nce import InfoNCEHead, contrast
from unmix.models.layers import Temperature, read_temperature
from unmix.registry import MODELS
from unmix.utils.dist import concat_all_gather_grad
from unmix.utils.numbers import check_number


def align(x: Tensor, y: Tensor, alpha: float = 2.0) -> Tensor:
    """Return ``mean_n ||x_n - y_n||^alpha`` of (N, D) and (N, D).

    (`Wang and Isola <https://arxiv.org/abs/2005.10242>`_, Eq. 4.) Rows that are equal to rounding have no gradient: for
    ``alpha`` below 2 it would be infinite. The released MoCo form, ``2 - 2 x.y``, is negative there, and NaN.
    """
    squared = (x - y).square().sum(1)
    if alpha == 2:
        return squared.mean()
    apart = ~(squared <= torch.finfo(squared.dtype).eps ** 2)  # NaN is apart, so that it shows
    return torch.where(apart, torch.where(apart, squared, 1.0).pow(alpha / 2), 0.0).mean()


def uniform(x: Tensor, t: float = 2.0) -> Tensor:
    """Return ``log mean_{i < j} exp(-t ||x_i - x_j||^2)`` of (N, D) (`Wang and Isola`_, Eq. 5).

    .. _Wang and Isola: https://arxiv.org/abs/2005.10242
    """
    squared = torch.pdist(x).square()
    return (-t * squared).logsumexp(0) - math.log(len(squared))


@MODELS.register_module()
class AlignUniformHead(InfoNCEHead):
    """Pull a query to its key, and spread queries away from each other and from the queue.

    ``loss = align_weight * mean_n ||q_n - k_n||^alpha + uniform_weight * log mean exp(-t * distance^2) +
    contrast_weight * InfoNCE``

    (`Wang and Isola <https://arxiv.org/abs/2005.10242>`_, Eqs. 16-18, on MoCo). The mean under the logarithm is over
    all pairs of a query and a row of the queue and, with ``intra_batch``, all pairs of queries, each pair counted once.
    A term with weight 0 is not computed. The released code averages per rank, so its value depends on their number.

    Args:
        dim: Feature dimension D.
        queue_size: Rows of the queue K.
        align_weight: Weight of alignment.
        alpha: Its exponent.
        uniform_weight: Weight of uniformity.
        t: Its scale.
        intra_batch: Whether pairs of queries count.
        scope: ``'rank'``, as released, or ``'global'``: pairs and mean over the queries of all ranks.
        contrast_weight: Weight of InfoNCE.
        temperature: Its temperature, as in :class:`InfoNCEHead`.

    Raises:
        ValueError: If all weights are 0 or one is negative; if alpha, t or temperature is not positive; if the
            temperature is learned, but ``contrast_weight`` is 0.
    """

    method = 'MoCo align-uniform'
    each = BaseHead.each  # uniformity is of all pairs of samples

    def __init__(
        self,
        dim: int = 128,
        queue_size: int = 65536,
        align_weight: float = 3.0,
        alpha: float = 2.0,
        uniform_weight: float = 1.0,
        t: float = 3.0,
        intra_batch: bool = True,
        scope: str = 'rank',
        contrast_weight: float = 0.0,
        temperature: Temperature | dict[str, Any] = 0.07,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(dim, queue_size, temperature, init_cfg)
        for name, value in dict(align=align_weight, uniform=uniform_weight, contrast=contrast_weight).items():
            check_number(f'head.{name}_weight', value, least=0)
        if not (align_weight or uniform_weight or contrast_weight):
            raise ValueError('head.align_weight, uniform_weight and contrast_weight are all 0: there is no loss.')
        if not contrast_weight and getattr(read_temperature(self.temperature), 'requires_grad', False):
            raise ValueError(
                'head.temperature is learned, but head.contrast_weight is 0, so the loss does not depend on it: set '
                'head.contrast_weight, or a number as head.temperature.'
            )
        check_number('head.alpha', alpha, above=0)
        check_number('head.t', t, above=0)
        if scope not in ('rank', 'global'):
            raise ValueError(f"head.scope is {scope!r}; it is 'rank' or 'global'.")
        self.weights = dict(contrast=contrast_weight, align=align_weight, uniform=uniform_weight)
        self.alpha, self.t, self.intra_batch, self.scope = alpha, t, intra_batch, scope

    @property
    def chance_loss(self) -> float:
        """Loss of features that are the same for all images."""
        return self.weights['contrast'] * math.log(self.queue.size + 1)

    @full_precision
    def shared(self, query: Tensor) -> Tensor | None:
        """Return the log-sum-exps (N, 2) over the queue, of InfoNCE's logits and of ``-t * distance^2``, if used."""
        # ||q - u||^2 = 2 - 2 q.u, of unit rows
        negatives = far = query.new_zeros(len(query))
        if self.weights['contrast']:
            negatives = bank_lse(query, self.queue.features, 1 / read_temperature(self.temperature))
        if self.weights['uniform']:
            far = bank_lse(query, self.queue.features, 2 * self.t) - 2 * self.t
        return torch.stack([negatives, far], 1)

    @full_precision
    def forward(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the loss of L2-normalised ``query`` and keys ``target``, both (N, D)."""
        parts = self.parts(query, target, shared)
        return torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()

    def parts(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> dict[str, Tensor]:
        """Return the parts whose weight is not 0, unweighted: ``contrast``, ``align``, ``uniform``."""
        negatives, far = (self.shared(query) if shared is None else shared).unbind(1)
        terms = {}
        if self.weights['contrast']:
            positive = (query * target).sum(1) / read_temperature(self.temperature)
            terms['contrast'] = contrast(negatives, positive).mean()
        if self.weights['align']:
            terms['align'] = align(query, target, self.alpha)
        if self.weights['uniform']:
            terms['uniform'] = self.uniform(query, far)
        return terms

    def uniform(self, query: Tensor, far: Tensor) -> Tensor:
        """Return uniformity of queries (N, D): among themselves, and between them and the queue, given as (N,)."""
        parts, count = [far], len(query) * self.queue.size
        if self.intra_batch and self.scope == 'rank':
            parts.append(-self.t * torch.pdist(query).square())
            count += len(query) * (len(query) - 1) // 2
        if self.scope == 'rank':
            return torch.stack([part.logsumexp(0) for part in parts if len(part)]).logsumexp(0) - math.log(count)
        if self.intra_batch:
            everyone = concat_all_gather_grad(query)
            own = len(query) * get_rank() + torch.arange(len(query), device=query.device)
            later = own[:, None] < torch.arange(len(everyone), device=query.device)
            squared = query.square().sum(1)[:, None] + everyone.square().sum(1) - 2 * query @ everyone.T
            parts.append((-self.t * squared).masked_fill(~later, -math.inf).flatten())
        ranks = concat_all_gather_grad(torch.cat(parts).logsumexp(0, keepdim=True))
        size = len(query) * len(ranks)
        count = size * self.queue.size + (size * (size - 1) // 2 if self.intra_batch else 0)
        return ranks.logsumexp(0) - math.log(count)
