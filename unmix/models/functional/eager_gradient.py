"""Losses of samples whose gradients are computed in the forward pass."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unmix.models.functional.first_order import first_order

Losses = Callable[[Tensor, slice], Tensor]


@torch.compiler.disable  # it computes gradients within a forward pass
def eager_gradient(losses: Losses, query: Tensor, size: int) -> Tensor:
    """Return the losses (N,) of the samples ``query`` (N, ...), computed for ``size`` samples at a time.

    The forward pass computes the gradient with respect to the query and keeps nothing else. So the intermediate tensors
    of only ``size`` samples are in memory, and what ``losses`` reads may be overwritten before the backward pass.

    There are no second derivatives. The query is the only tensor that gets a gradient; apply a learned temperature to
    it first, see :func:`divide_query`.

    Args:
        losses: Takes some samples (n, ...) and their slice of the batch; returns their losses (n,). The loss of a
            sample must not depend on other samples.
        query: (N, ...).
        size: Number of samples n, at least 1.

    Raises:
        RuntimeError: If the losses depend on another tensor that needs a gradient.
    """
    values: Tensor = _EagerGradient.apply(query, losses, size)
    return values


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
                if start == 0:
                    _refuse_others(value, part)
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


def _refuse_others(value: Tensor, part: Tensor) -> None:
    """Refuse losses that depend on a leaf other than ``part``: its gradient would be lost without a message."""
    nodes = [value.grad_fn]
    seen = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, 'variable', None)
        if leaf is not None and leaf is not part:
            raise RuntimeError(
                f'eager_gradient: the losses depend on a tensor of shape {tuple(leaf.shape)} that needs a gradient and '
                'is not the query. It would get none: detach it, or apply it to the query before the call.'
            )
        nodes += [following for following, _ in node.next_functions]
