"""Rows scaled to unit length, with a gradient of few operations."""

from typing import Any

import torch
from torch import Tensor

from unmix.models.functional.bank_chunks import raw_gradient, read_chunk
from unmix.models.functional.first_order import first_order


def unit_rows(bank: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the rows of a bank (K, D) in a type, scaled to unit length as by ``torch.nn.functional.normalize``.

    The gradient takes 5 kernels, that of ``normalize`` 14. There are no second derivatives.
    """
    rows: Tensor = _UnitRows.apply(bank, dtype)
    return rows


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bank: Tensor, dtype: torch.dtype) -> Tensor:
        unit, length = read_chunk(bank, slice(None), dtype, unit_rows=True)
        ctx.dtype = bank.dtype
        ctx.save_for_backward(unit, length)
        return unit

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return raw_gradient(gradient.clone(), *ctx.saved_tensors).to(ctx.dtype), None
