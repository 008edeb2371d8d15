"""Layer-wise adaptive rate control."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from unmix.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class LARC(Optimizer):
    """SGD on gradients scaled to the norm of their tensor, as SwAV uses apex's LARC around SGD.

    For each tensor ``p`` with gradient ``g``, both of non-zero norm,

    ``g <- (g + weight_decay * p) * a``,  ``a = trust_coefficient * |p| / (|g| + weight_decay * |p| + eps)``

    and with ``clip``, ``a <- min(a / lr, 1)``. A tensor of which one is zero keeps its gradient, without decay.
    Then ``buffer <- momentum * buffer + g``, ``p <- p - lr * buffer``
    (`LARS <https://arxiv.org/abs/1708.03888>`_, Alg. 1, where the rate multiplies the buffer, not the gradient). All
    tensors are treated alike, biases and BatchNorm too. Norms stay on the device: nothing waits for it.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        momentum: Momentum of SGD.
        weight_decay: Weight decay.
        trust_coefficient: Factor of the norms' ratio.
        eps: Added to the denominator.
        clip: LARC's own form, which never exceeds ``lr``; off is LARS scaling, as in SwAV.

    Raises:
        ValueError: If a number is negative.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        eps: float = 1e-8,
        clip: bool = False,
    ) -> None:
        numbers = dict(
            lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient, eps=eps
        )
        for name, value in numbers.items():
            if value < 0:
                raise ValueError(f'optim_wrapper.optimizer.{name} is {value}; it must not be negative.')
        super().__init__(params, dict(numbers, clip=clip))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group['params'] if p.grad is not None]
            if params:
                self._step_group(params, group)
        return loss

    def _step_group(self, params: list[Tensor], group: dict[str, Any]) -> None:
        gradients: list[Tensor] = [p.grad for p in params if p.grad is not None]
        norms, gradient_norms = (torch.stack(torch._foreach_norm(x)) for x in (params, gradients))
        decay = group['weight_decay']
        rate = group['trust_coefficient'] * norms / (gradient_norms + decay * norms + group['eps'])
        if group['clip']:
            rate = (rate / group['lr']).clamp(max=1.0)
        scaled = (norms > 0) & (gradient_norms > 0)
        rates = torch.where(scaled, rate, 1.0).unbind()
        decays = torch.where(scaled, rate * decay, 0.0).unbind()
        for p in params:
            if 'momentum_buffer' not in self.state[p]:
                self.state[p]['momentum_buffer'] = torch.zeros_like(p)
        buffers = [self.state[p]['momentum_buffer'] for p in params]
        torch._foreach_mul_(buffers, group['momentum'])
        torch._foreach_addcmul_(buffers, gradients, rates)
        torch._foreach_addcmul_(buffers, params, decays)
        torch._foreach_add_(params, buffers, alpha=-group['lr'])
