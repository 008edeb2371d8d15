"""Layer-wise adaptive rate scaling."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from unmix.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class LARS(Optimizer):
    """`LARS <https://arxiv.org/abs/1708.03888>`_ in the form of the PIC repository's SimCLR.

    ``g <- g + weight_decay * p``; ``g <- g * trust_coef * |p| / (|g| + eps)`` if both norms are positive;
    ``v <- momentum * v + g``; ``p <- p - lr * v``. Biases and BatchNorm (tensors of one dimension) get neither decay
    nor scaling. The learning rate stays out of the momentum, as in PyTorch's SGD and unlike in the paper. Norms stay on
    the device.

    Args:
        params: As for every optimiser.
        lr: Learning rate.
        momentum: Share of the momentum that stays.
        weight_decay: Of tensors with more than one dimension.
        trust_coef: Ratio of the lengths of a step, at ``lr=1``, and of the tensor.
        eps: Added to the gradient's norm.

    Raises:
        ValueError: If an argument is negative.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coef: float = 0.001,
        eps: float = 1e-8,
    ) -> None:
        defaults = dict(lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coef=trust_coef, eps=eps)
        for name, value in defaults.items():
            if value < 0:
                raise ValueError(f'optim_wrapper.optimizer.{name} is {value}; it must not be negative.')
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group['params'] if p.grad is not None]
            if parameters:
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients: list[Tensor] = [p.grad for p in parameters]  # type: ignore[misc]
        scaled = [n for n, p in enumerate(parameters) if p.ndim > 1]
        if scaled:
            weights = [parameters[n] for n in scaled]
            decayed = torch._foreach_add([gradients[n] for n in scaled], weights, alpha=group['weight_decay'])
            norms = zip(torch._foreach_norm(weights), torch._foreach_norm(decayed), strict=True)
            ratios = [
                torch.where((p > 0) & (g > 0), group['trust_coef'] * p / (g + group['eps']), 1.0) for p, g in norms
            ]
            torch._foreach_mul_(decayed, ratios)
            for n, gradient in zip(scaled, decayed, strict=True):
                gradients[n] = gradient
        velocities = []
        for p in parameters:
            if 'momentum_buffer' not in self.state[p]:
                self.state[p]['momentum_buffer'] = torch.zeros_like(p)
            velocities.append(self.state[p]['momentum_buffer'])
        torch._foreach_mul_(velocities, group['momentum'])
        torch._foreach_add_(velocities, gradients)
        torch._foreach_add_(parameters, velocities, alpha=-group['lr'])
