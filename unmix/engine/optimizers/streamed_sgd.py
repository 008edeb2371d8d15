"""SGD of weights whose gradient is never a tensor."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

from unmix.models.functional import BankGradient
from unmix.models.functional.bank_chunks import chunks
from unmix.registry import OPTIMIZERS


@OPTIMIZERS.register_module()
class StreamedSGD(SGD):
    """SGD that takes the gradient of some weights in parts, and makes gradient and step of a few rows at a time.

    The weights (N, D) of :class:`PICHead` have a row for each image. Their gradient is a function of a few numbers of
    each sample, :class:`BankGradient`; here it is computed row by row in the step, so that beside the weights there is
    only their momentum. Values and state dict are those of ``torch.optim.SGD``, of all other parameters too.

    A head asks for it by :meth:`stream` when :class:`InstanceHook` tells it of the optimiser; on several processes none
    does. Neither scaled losses (``AmpOptimWrapper``; bfloat16 needs none) nor ``clip_grad`` know such gradients, nor do
    checkpoints within an accumulation: the hook refuses them.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        momentum: Momentum.
        weight_decay: Weight decay.
        **kwargs: Of ``torch.optim.SGD``, but for dampening, nesterov and maximize.

    Raises:
        ValueError: If one of the three is set.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        **kwargs: Any,
    ) -> None:
        unknown = [name for name in ('dampening', 'nesterov', 'maximize') if kwargs.get(name)]
        if unknown:
            raise ValueError(
                f'optim_wrapper.optimizer has {", ".join(unknown)}, which StreamedSGD does not know; leave it out, or '
                "use type='SGD'."
            )
        self._streams: dict[Tensor, BankGradient] = {}
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, **kwargs)
        self.register_step_post_hook(lambda *_: self._step_streams())

    def stream(self, parameter: Tensor, gradient: BankGradient) -> None:
        """Take the gradient of a parameter from ``gradient`` from now on."""
        self._streams[parameter] = gradient

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        super().zero_grad(set_to_none)
        for gradient in self._streams.values():
            gradient.clear()

    @torch.no_grad()
    def _step_streams(self) -> None:
        for group in self.param_groups:
            for parameter in group['params']:
                gradient = self._streams.get(parameter)
                if gradient:
                    self._step_stream(parameter, gradient, group)

    def _step_stream(self, parameter: Tensor, gradient: BankGradient, group: dict[str, Any]) -> None:
        gradient.ready(parameter)
        own, of_own = gradient.own_rows(parameter)
        of_own = of_own.to(parameter.dtype)
        state = self.state[parameter]
        velocity = state.get('momentum_buffer')
        if velocity is None and group['momentum']:
            velocity = state['momentum_buffer'] = torch.zeros_like(parameter)
        for rows in chunks(parameter):
            change = gradient.chunk(parameter, rows).to(parameter.dtype)
            change.add_(parameter[rows], alpha=group['weight_decay'])
            if velocity is not None:
                change = velocity[rows].mul_(group['momentum']).add_(change)
            parameter[rows].add_(change, alpha=-group['lr'])
        if velocity is not None:
            velocity.index_add_(0, own, of_own)
        parameter.index_add_(0, own, of_own, alpha=-group['lr'])
