"""The log-sum-exp of similarities to a bank of rows, chunk by chunk. Shapes: R queries, K rows, D features.

The literal form, ``(scale * query @ bank.T).logsumexp(1)``, allocates several (R, K) tables and keeps some of them, and
the bank, until the backward pass. Here the bank is processed in cache-sized chunks: the similarities of a chunk, their
exponentials and their part of the derivative are computed together. Nothing of size R x K is kept.

There are no second derivatives. Asking for them raises an error, see :func:`first_order`.
"""

from typing import Any

import torch
from torch import Tensor

from unmix.models.functional.bank_chunks import chunks, hide, new_table, raw_gradient, read_chunk
from unmix.models.functional.first_order import first_order
from unmix.models.functional.scale import fold_scale


@torch.compiler.disable  # the compiler would unroll the loop over chunks
def bank_lse(
    query: Tensor,
    bank: Tensor,
    scale: float | Tensor = 1.0,
    *,
    valid: Tensor | None = None,
    unit_rows: bool = False,
    bank_weight: float = 1.0,
) -> Tensor:
    """Return ``log sum_k exp(scale * query_r . bank_k)``, (R,).

    The running maximum is subtracted from the exponents, so no scale overflows. The forward pass computes the
    derivative with respect to the query, ``scale * softmax @ bank``, and keeps no reference to the bank. So the bank
    may be overwritten before the backward pass. A bank that needs a gradient must stay unchanged until the backward
    pass, which computes the similarities a second time.

    Half precision is computed in float32, also under autocast.

    Args:
        query: (R, D).
        bank: (K, D), on the same device.
        scale: Factor of the similarities, 1 / temperature; a float, or a tensor () that may need a gradient.
        valid: (K,) bool; the rows that count. None: all rows. Without any valid row the value is -inf, and the
            gradient is 0.
        unit_rows: Whether the rows of the bank are scaled to unit length first.
        bank_weight: Factor of the bank's gradient.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, scale = fold_scale(_full(query, bank), scale)
        lse: Tensor = _BankLSE.apply(query, bank, scale, valid, unit_rows, bank_weight)
    return lse


@torch.compiler.disable
def own_similarity(
    query: Tensor,
    bank: Tensor,
    index: Tensor,
    scale: float | Tensor = 1.0,
    *,
    unit_rows: bool = False,
    bank_weight: float = 1.0,
) -> Tensor:
    """Return ``scale * query_r . bank[index_r]``, (R,). ``index``: (R,) int64; other arguments: :func:`bank_lse`."""
    with torch.autocast(query.device.type, enabled=False):
        query, scale = fold_scale(_full(query, bank), scale)
        similarity: Tensor = _OwnSimilarity.apply(query, bank, index, scale, unit_rows, bank_weight)
    return similarity


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
    ) -> Tensor:
        query_wanted, bank_wanted = ctx.needs_input_grad[:2]
        scaled = scale * query
        top = query.new_full((len(query), 1), -torch.inf)  # the running maximum of the exponents
        total = torch.zeros_like(top)
        mean = torch.zeros_like(query)  # sum over the rows, weighted by exp(exponent - top)
        room = new_table(query, bank)
        for rows in chunks(query, bank):
            chunk, _ = read_chunk(bank, rows, query.dtype, unit_rows)
            table = torch.mm(scaled, chunk.T, out=room[:, : len(chunk)])
            hide(table, rows, valid)
            higher = torch.maximum(top, table.amax(1, keepdim=True))
            base = higher.clamp(min=torch.finfo(query.dtype).min) if valid is not None else higher  # -inf - -inf is NaN
            shrink = (top - base).exp_()
            table.sub_(base).exp_()
            total.mul_(shrink).add_(table.sum(1, keepdim=True))
            if query_wanted:
                mean.mul_(shrink).addmm_(table, chunk)
            top = higher
        lse = (top + total.log()).squeeze(1)
        derivative = mean.mul_(scale / total.masked_fill_(total == 0, 1.0)) if query_wanted else None
        ctx.options = scale, unit_rows, bank_weight
        ctx.save_for_backward(derivative, *((query, bank, lse, valid) if bank_wanted else (None,) * 4))
        return lse

    @staticmethod
    @first_order
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        derivative, query, bank, lse, valid = ctx.saved_tensors
        scale, unit_rows, bank_weight = ctx.options
        of_query = of_bank = None
        if ctx.needs_input_grad[0]:
            of_query = weight[:, None] * derivative
        if ctx.needs_input_grad[1]:
            of_bank = _bank_gradient(query, bank, lse, bank_weight * weight, scale, valid, unit_rows)
        return of_query, of_bank, None, None, None, None


def _bank_gradient(
    query: Tensor, bank: Tensor, lse: Tensor, weight: Tensor, scale: float, valid: Tensor | None, unit_rows: bool
) -> Tensor:
    """Return the gradient of the bank (K, D) of ``sum_r weight_r lse_r``, with ``lse`` and ``weight`` (R,).

    ``g_k = scale * sum_r weight_r exp(scale * query_r . bank_k - lse_r) query_r``
    """
    scaled, weighted = scale * query, scale * weight[:, None] * query
    base = lse.clamp(min=torch.finfo(lse.dtype).min)[:, None]
    room, gradient = new_table(query, bank), torch.empty_like(bank)
    for rows in chunks(query, bank):
        chunk, length = read_chunk(bank, rows, query.dtype, unit_rows)
        table = torch.mm(scaled, chunk.T, out=room[:, : len(chunk)])
        hide(table, rows, valid)
        gradient[rows] = raw_gradient(table.sub_(base).exp_().T @ weighted, chunk, length)
    return gradient


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
    ) -> Tensor:
        rows, length = read_chunk(bank, index, query.dtype, unit_rows)
        ctx.options = scale, bank_weight
        ctx.save_for_backward(rows, *((query, bank, index, length) if ctx.needs_input_grad[1] else (None,) * 4))
        return scale * (query * rows).sum(1)

    @staticmethod
    @first_order
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, ...]:
        rows, query, bank, index, length = ctx.saved_tensors
        scale, bank_weight = ctx.options
        of_query = of_bank = None
        if ctx.needs_input_grad[0]:
            of_query = scale * weight[:, None] * rows
        if ctx.needs_input_grad[1]:
            gradient = raw_gradient(scale * (bank_weight * weight)[:, None] * query, rows, length)
            of_bank = torch.zeros_like(bank).index_add_(0, index, gradient.to(bank.dtype))
        return of_query, of_bank, None, None, None, None
