"""Refuse second derivatives."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the backward pass of an autograd function that has no second derivatives.

    PyTorch's ``once_differentiable`` raises an error only if the incoming gradient requires a gradient itself.
    Otherwise it drops second derivatives without a message.

    Raises:
        RuntimeError: In a backward pass with ``create_graph=True``.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                'The losses of unmix.models.functional have no second derivatives, so create_graph=True does not work '
                'with them. Compute the loss from the whole table of similarities instead.'
            )
        return backward(ctx, *gradients)

    return checked
