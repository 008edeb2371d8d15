"""Functions with first derivatives only."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Let the backward pass of an autograd function refuse to be differentiated itself.

    PyTorch's ``once_differentiable`` complains only where the incoming gradient has a graph; elsewhere a second
    derivative would be silently left out.

    Raises:
        RuntimeError: In a backward pass with ``create_graph=True``.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                'The streamed losses of unmix.models.functional have no second derivatives: create_graph=True cannot '
                'go through them. Write the loss as a table of similarities where you need them.'
            )
        return backward(ctx, *gradients)

    return checked
