"""Losses of samples whose gradients are made in the forward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unmix.models.functional.first_order import first_order

Losses = Callable[[Tensor, slice], Tensor]


@torch.compiler.disable  # gradients within a forward pass
def eager_gradient(losses: Losses, query: Tensor, size: int) -> Tensor:
    """Return the losses (N,) of samples ``query`` (N, ...), of ``size`` samples at a time.

    Their gradients with respect to the query are made at once, and only they are kept: so what the losses are computed
    from lives for ``size`` samples only, and may be overwritten before the backward pass. There are no second
    derivatives, and none with respect to anything else.

    Args:
        losses: Of some samples (n, ...), given with their places in the batch: (n,). Each its own sample's alone.
        query: (N, ...).
        size: Number of samples n, at least 1.
    """
    return _EagerGradient.apply(query, losses, size)


class _EagerGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, losses: Losses, size: int) -> Tensor:
        values: list[Tensor] = []
        gradients: list[Tensor] = []
        for start in range(0, len(query), size):
            samples = slice(start, start + size)
            with torch.enable_grad():
                part = query[samples].detach().requires_grad_(ctx.needs_input_grad[0])
                value = losses(part, samples)
                if ctx.needs_input_grad[0]:
                    gradients += torch.autograd.grad(value.sum(), part)
            values.append(value.detach())
        ctx.save_for_backward(torch.cat(gradients) if gradients else None)
        return torch.cat(values)

    @staticmethod
    @first_order
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor | None, None, None]:
        (gradient,) = ctx.saved_tensors
        return weight.view(-1, *[1] * (gradient.ndim - 1)) * gradient, None, None
