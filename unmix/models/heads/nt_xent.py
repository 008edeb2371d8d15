"""Contrastive loss inside the batch."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from torch import Tensor

from unmix.models.functional import pair_cross_entropy
from unmix.models.heads.base import BaseHead
from unmix.models.layers import Temperature, build_temperature, read_temperature
from unmix.registry import MODELS
from unmix.utils.dist import concat_all_gather, concat_all_gather_grad
from unmix.utils.precision import full_precision


@MODELS.register_module()
class NTXentHead(BaseHead):
    """Find the other view of each image among both views of all images of all ranks.

    With ``a`` = query, ``b`` = target, G images on all ranks, and each row's softmax over the other 2 G - 1 rows,

    ``loss = 1 / (2 N) sum_n [-log softmax_n([a_n . b, a_n . a] / temperature) - log softmax_n([b_n . a, b_n . b] /
    temperature)]``

    (`SimCLR <https://arxiv.org/abs/2002.05709>`_, Eq. 1); symmetric in its arguments. The mean of the ranks' losses is
    the loss of one process with the whole batch, and so is its gradient under DDP. The released codes subtract 1e9 from
    the similarity of a row to itself; here it does not count.

    Args:
        temperature: Softmax temperature; PIC's repository 0.1, htdt 0.5. Or a config, as in :class:`InfoNCEHead`.
        gradient: ``'full'``, or ``'query_only'`` as PIC's repository does: no gradient flows into the candidates, which
            about halves it and changes its direction little.

    Raises:
        ValueError: If ``temperature`` is not positive or ``gradient`` another.
    """

    def __init__(
        self,
        temperature: Temperature | dict[str, Any] = 0.1,
        gradient: str = 'full',
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if gradient not in ('full', 'query_only'):
            raise ValueError(f"head.gradient is {gradient!r}; it is 'full' or 'query_only'.")
        self.temperature = build_temperature(temperature)
        self.gather = concat_all_gather_grad if gradient == 'full' else concat_all_gather
        self._candidates: int | None = None

    @property
    def chance_loss(self) -> float | None:
        """Loss of features that are the same for all images, ln(2 G - 1); None before the first step."""
        return None if self._candidates is None else math.log(self._candidates)

    def labels(self, query: Tensor) -> Tensor:
        """Return the positions (N,) of this rank's rows among those of all ranks."""
        return len(query) * get_rank() + torch.arange(len(query), device=query.device)

    @full_precision
    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the loss of ``query`` and ``target``, L2-normalised, both (N, D)."""
        both = torch.stack([query, target], dim=1)
        candidates = self.gather(both).transpose(0, 1).flatten(0, 1)  # all queries, then all targets
        place, half = self.labels(query), len(candidates) // 2
        itself, other = torch.cat([place, place + half]), torch.cat([place + half, place])
        rows = both.transpose(0, 1).flatten(0, 1)
        return pair_cross_entropy(rows, candidates, other, itself, 1 / read_temperature(self.temperature))

    def update(self, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        """Store the number of candidates for :attr:`chance_loss`."""
        self._candidates = 2 * len(next(iter(targets.values()))) * get_world_size() - 1
