"""The cross-entropy of rows that must find their partners among candidates, with the gradients of both.

Shapes: R rows, M candidates, D features.
"""

from typing import Any

import torch
from torch import Tensor

from unmix.models.functional.at_a_time import numbers_at_a_time
from unmix.models.functional.first_order import first_order
from unmix.models.functional.scale import fold_scale

# Similarities that are in memory at a time, per CPU thread. With 512 to 4096 candidates of 128 features, 2^18 to 2^20
# similarities take the same time within 10 %: they fit in the cache.
AT_A_TIME = 1 << 18


@torch.compiler.disable  # the compiler would unroll the loop over rows
def pair_cross_entropy(
    rows: Tensor, candidates: Tensor, partner: Tensor, itself: Tensor, scale: float | Tensor
) -> Tensor:
    """Return ``mean_r -log softmax(scale * row_r . candidates)[partner_r]``, ().

    The softmax leaves out the candidate ``itself_r``. Rows are processed a few at a time, so that their similarities
    stay in the processor's cache. The forward pass also computes both gradients; nothing of size R x M is kept. There
    are no second derivatives.

    Args:
        rows: (R, D).
        candidates: (M, D), of the same dtype.
        partner: (R,) int64; the candidate that row r must find.
        itself: (R,) int64; the candidate that is row r itself, never its partner.
        scale: Factor of the similarities, 1 / temperature; a float, or a tensor () that may need a gradient.
    """
    with torch.autocast(rows.device.type, enabled=False):
        rows, scale = fold_scale(rows, scale)
        loss: Tensor = _PairCrossEntropy.apply(rows, candidates, partner, itself, scale)
    return loss


class _PairCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, candidates: Tensor, partner: Tensor, itself: Tensor, scale: float) -> Tensor:
        limit = numbers_at_a_time(rows.device, AT_A_TIME * torch.get_num_threads())
        size = min(max(limit // len(candidates), 1), len(rows))
        scaled, room = scale * rows, rows.new_empty(size, len(candidates))
        wanted = [
            torch.zeros_like(x) if need else None
            for x, need in zip((rows, candidates), ctx.needs_input_grad, strict=False)
        ]
        total = rows.new_zeros(())
        for start in range(0, len(rows), size):
            some = slice(start, start + size)
            own = partner[some, None]
            table = torch.mm(scaled[some], candidates.T, out=room[: len(own)])
            similarity = table.gather(1, own)
            table.scatter_(1, itself[some, None], -torch.inf)
            top = table.amax(1, keepdim=True)
            mass = table.sub_(top).exp_().sum(1, keepdim=True)
            total += (top + mass.log() - similarity).sum()
            table.div_(mass).scatter_add_(1, own, table.new_full(own.shape, -1.0))
            if wanted[0] is not None:
                torch.mm(table, candidates, out=wanted[0][some])
            if wanted[1] is not None:
                wanted[1].addmm_(table.T, rows[some])
        ctx.save_for_backward(*(x if x is None else x.mul_(scale / len(rows)) for x in wanted))
        return total / len(rows)

    @staticmethod
    @first_order
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        return *(x if x is None else weight * x for x in ctx.saved_tensors), None, None, None
