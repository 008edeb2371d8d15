"""SGD on gradients scaled to the norm of their tensor: LARS and LARC."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from unmix.registry import OPTIMIZERS

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]


class LayerwiseSGD(Optimizer):
    """``v <- momentum * v + s(g, p)``; ``p <- p - lr * v``, with a scaled gradient s that a subclass defines.

    In `LARS <https://arxiv.org/abs/1708.03888>`_, Alg. 1, the rate multiplies s; here it multiplies the momentum, as in
    PyTorch's SGD and in the released code of both subclasses. Norms stay on the device.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        momentum: Share of the momentum that stays.
        weight_decay: Weight decay.
        trust_coefficient: Factor of the norms' ratio.
        eps: Added to the denominator of the ratio.

    Raises:
        ValueError: If a number is negative.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        eps: float = 1e-8,
    ) -> None:
        numbers = dict(
            lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient, eps=eps
        )
        for name, value in numbers.items():
            if value < 0:
                raise ValueError(f'optim_wrapper.optimizer.{name} is {value}; it must not be negative.')
        super().__init__(params, numbers)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group['params'] if p.grad is not None]
            for p in params:
                if 'momentum_buffer' not in self.state[p]:
                    self.state[p]['momentum_buffer'] = torch.zeros_like(p)
            if params:
                buffers: list[Tensor] = [self.state[p]['momentum_buffer'] for p in params]
                torch._foreach_mul_(buffers, group['momentum'])
                self._add_scaled(buffers, params, [p.grad for p in params], group)
                torch._foreach_add_(params, buffers, alpha=-group['lr'])
        return loss

    @abstractmethod
    def _add_scaled(
        self, buffers: list[Tensor], params: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        """Add the scaled gradient of each tensor to its buffer; leave the gradient as it is."""


@OPTIMIZERS.register_module()
class LARS(LayerwiseSGD):
    """`LARS <https://arxiv.org/abs/1708.03888>`_ in the form of the PIC repository's SimCLR.

    ``g <- g + weight_decay * p``; ``g <- g * trust_coefficient * |p| / (|g| + eps)`` if both norms are positive. Biases
    and BatchNorm (tensors of one dimension) get neither decay nor scaling. Arguments: :class:`LayerwiseSGD`.
    """

    def _add_scaled(
        self, buffers: list[Tensor], params: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        scaled = [n for n, p in enumerate(params) if p.ndim > 1]
        if scaled:
            weights, trust = [params[n] for n in scaled], group['trust_coefficient']
            decayed = torch._foreach_add([gradients[n] for n in scaled], weights, alpha=group['weight_decay'])
            norms = zip(torch._foreach_norm(weights), torch._foreach_norm(decayed), strict=True)
            ratios = [torch.where((p > 0) & (g > 0), trust * p / (g + group['eps']), 1.0) for p, g in norms]
            torch._foreach_mul_(decayed, ratios)
            for n, gradient in zip(scaled, decayed, strict=True):
                gradients[n] = gradient
        torch._foreach_add_(buffers, gradients)


@OPTIMIZERS.register_module()
class LARC(LayerwiseSGD):
    """LARC of apex around SGD, as SwAV uses it.

    ``g <- (g + weight_decay * p) * a`` with ``a = trust_coefficient * |p| / (|g| + weight_decay * |p| + eps)`` if both
    norms are positive. A tensor of which one is zero keeps its gradient, without decay. All tensors are treated alike,
    biases and BatchNorm too. Other arguments: :class:`LayerwiseSGD`.

    Args:
        clip: ``a <- min(a / lr, 1)``, LARC's own form, which never exceeds ``lr``; off is LARS scaling, as in SwAV.
    """

    def __init__(self, params: Parameters, *args: Any, clip: bool = False, **kwargs: Any) -> None:
        super().__init__(params, *args, **kwargs)
        self.defaults['clip'] = clip
        for group in self.param_groups:
            group.setdefault('clip', clip)

    def _add_scaled(
        self, buffers: list[Tensor], params: list[Tensor], gradients: list[Tensor], group: dict[str, Any]
    ) -> None:
        norms, gradient_norms = (torch.stack(torch._foreach_norm(x)) for x in (params, gradients))
        decay = group['weight_decay']
        rate = group['trust_coefficient'] * norms / (gradient_norms + decay * norms + group['eps'])
        if group['clip']:
            rate = (rate / group['lr']).clamp(max=1.0)
        scaled = (norms > 0) & (gradient_norms > 0)
        torch._foreach_addcmul_(buffers, gradients, torch.where(scaled, rate, 1.0).unbind())
        torch._foreach_addcmul_(buffers, params, torch.where(scaled, rate * decay, 0.0).unbind())
