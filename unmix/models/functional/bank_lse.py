"""The log-sum-exp of similarities to a bank of rows, without a table of them. Shapes: R queries, K rows, D features.

Literally, ``(scale * query @ bank.T).logsumexp(1)`` makes several tables of R x K numbers and keeps some of them, and
the bank, until the backward pass. Here the bank goes by in chunks: of each the similarities, their exponentials and
their share of the derivative are made while they are in the processor's cache, and forgotten.

There are no second derivatives; asking for them raises an error, see :func:`first_order`.
"""

from typing import Any

import torch
from torch import Tensor

from unmix.models.functional.bank_chunks import chunks, hide, new_table, read_chunk
from unmix.models.functional.bank_gradient import BankGradient
from unmix.models.functional.first_order import first_order


@torch.compiler.disable  # a loop over chunks, which a compiler would unroll
def bank_lse(
    query: Tensor,
    bank: Tensor,
    scale: float = 1.0,
    *,
    valid: Tensor | None = None,
    unit_rows: bool = False,
    bank_weight: float = 1.0,
    gradient: BankGradient | None = None,
) -> Tensor:
    """Return ``log sum_k exp(scale * query_r . bank_k)``, (R,).

    Safe for any scale: exponents are taken less the greatest one so far. The derivative with respect to the query,
    ``scale * softmax @ bank``, is made in the forward pass: nothing of size R x K is kept and no reference to the bank,
    which may be overwritten before the backward pass. If the bank wants a gradient too, it must stay as it is until
    then, and its similarities are computed once more.

    Half precision is computed in float32, also under autocast.

    Args:
        query: (R, D).
        bank: (K, D), on the same device.
        scale: Factor of the similarities; 1 / temperature.
        valid: (K,) bool; rows that count, None: all. A query that no row counts for has the value -inf, without
            gradient.
        unit_rows: Scale the bank's rows to unit length first.
        bank_weight: Factor of the bank's gradient.
        gradient: Takes the bank's gradient, of these ``scale`` and ``unit_rows``, instead of the bank.
    """
    query = _full(query, bank)
    with torch.autocast(query.device.type, enabled=False):
        return _BankLSE.apply(query, bank, scale, valid, unit_rows, bank_weight, gradient)


@torch.compiler.disable
def own_similarity(
    query: Tensor,
    bank: Tensor,
    index: Tensor,
    scale: float = 1.0,
    *,
    unit_rows: bool = False,
    bank_weight: float = 1.0,
    gradient: BankGradient | None = None,
) -> Tensor:
    """Return ``scale * query_r . bank[index_r]``, (R,); index (R,), the rest as in :func:`bank_lse`."""
    query = _full(query, bank)
    with torch.autocast(query.device.type, enabled=False):
        return _OwnSimilarity.apply(query, bank, index, scale, unit_rows, bank_weight, gradient)


def _full(query: Tensor, bank: Tensor) -> Tensor:
    return query.to(torch.promote_types(torch.promote_types(query.dtype, bank.dtype), torch.float32))


class _BankLSE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        bank: Tensor,
        scale: float,
        valid: Tensor | None,
        unit_rows: bool,
        bank_weight: float,
        gradient: BankGradient | None,
    ) -> Tensor:
        wanted, bank_wanted = ctx.needs_input_grad[:2]
        scaled = scale * query
        top = query.new_full((len(query), 1), -torch.inf)  # the greatest exponent so far
        total = torch.zeros_like(top)
        mean = torch.zeros_like(query)  # of the rows, weighted by exp(exponent - top)
        room = new_table(query, bank)
        for rows in chunks(bank):
            chunk, _ = read_chunk(bank, rows, query.dtype, unit_rows)
            table = torch.mm(scaled, chunk.T, out=room[:, : len(chunk)])
            hide(table, rows, valid)
            higher = torch.maximum(top, table.amax(1, keepdim=True))
            base = higher.clamp(min=torch.finfo(query.dtype).min) if valid is not None else higher  # -inf - -inf is NaN
            shrink = (top - base).exp_()
            table.sub_(base).exp_()
            total.mul_(shrink).add_(table.sum(1, keepdim=True))
            if wanted:
                mean.mul_(shrink).addmm_(table, chunk)
            top = higher
        lse = (top + total.log()).squeeze(1)
        ctx.terms = scale, unit_rows, bank_weight, gradient
        derivative = mean.mul_(scale / total.masked_fill_(total == 0, 1.0)) if wanted else None
        whose = (query, lse) if bank_wanted else (None, None)
        dense = bank_wanted and gradient is None
        ctx.save_for_backward(derivative, *whose, *((bank, valid) if dense else (None, None)))
        return lse

    @staticmethod
    @first_order
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        derivative, query, lse, bank, valid = ctx.saved_tensors
        scale, unit_rows, bank_weight, gradient = ctx.terms
        of_query = weight[:, None] * derivative if ctx.needs_input_grad[0] else None
        of_bank = None
        if ctx.needs_input_grad[1]:
            parts = BankGradient(scale, unit_rows, valid) if gradient is None else gradient
            parts.add_soft(query, lse, bank_weight * weight)
            of_bank = parts.dense(bank) if gradient is None else None
        return of_query, of_bank, None, None, None, None, None


class _OwnSimilarity(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        bank: Tensor,
        index: Tensor,
        scale: float,
        unit_rows: bool,
        bank_weight: float,
        gradient: BankGradient | None,
    ) -> Tensor:
        rows, _ = read_chunk(bank, index, query.dtype, unit_rows)
        dense = ctx.needs_input_grad[1] and gradient is None
        ctx.save_for_backward(query, index, rows, bank if dense else None)
        ctx.terms = scale, unit_rows, bank_weight, gradient
        return scale * (query * rows).sum(1)

    @staticmethod
    @first_order
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        query, index, rows, bank = ctx.saved_tensors
        scale, unit_rows, bank_weight, gradient = ctx.terms
        of_query = scale * weight[:, None] * rows if ctx.needs_input_grad[0] else None
        of_bank = None
        if ctx.needs_input_grad[1]:
            parts = BankGradient(scale, unit_rows) if gradient is None else gradient
            parts.add_own(query, index, bank_weight * weight)
            of_bank = parts.dense(bank) if gradient is None else None
        return of_query, of_bank, None, None, None, None, None
