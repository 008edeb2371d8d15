"""One training step: forward, backward, check of loss and gradient, optimiser step, state."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from unmix.models.algorithms.base import BaseAlgorithm
from unmix.utils.accumulation import optim_wrappers
from unmix.utils.dist import unwrap
from unmix.utils.nan_reasons import watching


class TrainStep:
    """Run forward and backward pass, check loss and gradient, step the optimiser, and only then move the state.

    A model's ``train_step`` gets this object instead of its ``OptimWrapper``: it calls :meth:`optim_context` around the
    forward pass and :meth:`update_params` with the loss. If loss or gradient is not finite on any rank, the optimiser
    does not step and :meth:`BaseAlgorithm.after_step` is not called. The forward pass has moved only the running
    statistics of BatchNorm; a copy made before it is written back.

    With gradient accumulation, a bad batch leaves out the whole optimiser step that it belongs to. A gradient scaler
    (``AmpOptimWrapper``) checks the gradients itself.

    Args:
        model: The model, perhaps in a wrapper such as DistributedDataParallel.
        optim_wrapper: Its optimiser. An ``OptimWrapperDict``, or one that is no ``OptimWrapper``, is given to the model
            as it is, without checks.

    Attributes:
        watch: Whether losses and gradients are checked.
        failed: What was not finite in the last step: ``'loss'``, ``'gradient'``, or None.
        reasons: Reasons for a loss of NaN that layers have given in the last step.
        left_out: Whether the optimiser step that is being accumulated will be left out.
    """

    def __init__(self, model: nn.Module, optim_wrapper: Any) -> None:
        self.model: Any = model
        self.wrapper, self.method = optim_wrapper, unwrap(model)
        self._updates = isinstance(optim_wrapper, OptimWrapper) and not isinstance(optim_wrapper, OptimWrapperDict)
        self.watch = False
        self.failed: str | None = None
        self.reasons: list[str] = []
        self.left_out = False
        self._stepped = False
        self._statistics = RunningStatistics(self.method)
        optimizers = [wrapper.optimizer for wrapper in optim_wrappers(optim_wrapper)]
        self._hooks = []
        for optimizer in optimizers:
            if isinstance(optimizer, Optimizer):
                self._hooks += [
                    optimizer.register_step_pre_hook(self._prepare),
                    optimizer.register_step_post_hook(self._note),
                ]

    def start_watching(self) -> bool:
        """Check losses and gradients from now on; return whether that is possible with this optimiser."""
        self.watch = self._updates
        return self.watch

    def close(self) -> None:
        """Remove the hooks from the optimisers."""
        for hook in self._hooks:
            hook.remove()

    def run(self, batch: Any) -> dict[str, Tensor]:
        """Take one step; return the loss terms for the log."""
        self.failed = None
        if self.watch:
            self._statistics.keep()
        wrapper = self if self._updates else self.wrapper
        context: AbstractContextManager[list[str]] = watching() if self.watch else nullcontext([])
        with context as self.reasons:
            outputs: dict[str, Tensor] = self.model.train_step(batch, optim_wrapper=wrapper)
        if self.failed is None:
            self.commit()
        else:
            self.discard()
        return outputs

    def commit(self) -> None:
        """Move the state of the method after a step that was taken."""
        if isinstance(self.method, BaseAlgorithm):
            self.method.after_step(stepped=self._stepped)
        self._stepped = False

    def discard(self) -> None:
        """Discard a step that was not taken, and the gradients that were accumulated before it."""
        self.wrapper.zero_grad()
        self._statistics.restore()
        if isinstance(self.method, BaseAlgorithm):
            self.method.discard_step()

    def optim_context(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Return the context of a forward pass: autocast, and no gradient synchronisation while accumulating."""
        context: AbstractContextManager[Any] = self.wrapper.optim_context(model)
        return context

    def update_params(
        self, loss: Tensor, step_kwargs: Mapping[str, Any] | None = None, zero_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Run the backward pass, and the optimiser step if it is due and all is finite; as ``OptimWrapper`` does."""
        wrapper = self.wrapper
        wrapper.backward(wrapper.scale_loss(loss))
        due = wrapper.should_update()
        if self.watch:
            judge_gradients = due and not self.left_out and not isinstance(wrapper, AmpOptimWrapper)
            self.failed = what_is_not_finite(loss, self.method.parameters() if judge_gradients else ())
            self.left_out |= self.failed is not None
        if due:
            if not self.left_out:
                wrapper.step(**(step_kwargs or {}))
            wrapper.zero_grad(**(zero_kwargs or {}))
            self.left_out = False

    def _prepare(self, *_: Any) -> None:
        """Drop the gradients of parameters that are frozen; norms for clipping were taken with zeros there."""
        if isinstance(self.method, BaseAlgorithm):
            self.method.before_step()

    def _note(self, optimizer: Optimizer, *_: Any) -> None:
        """Note whether the optimiser has stepped; a fused kernel leaves the step out if the scaler found infinities."""
        overflow = getattr(optimizer, 'found_inf', None)
        self._stepped = overflow is None or not bool(overflow)


def what_is_not_finite(loss: Tensor, parameters: Iterator[nn.Parameter] | tuple[()]) -> str | None:
    """Return ``'loss'`` or ``'gradient'`` if one is NaN or infinite on any rank, else None; the host waits once.

    Gradients are judged by their Euclidean norm, which is one pass over them. It overflows above 1e19 in float32.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = get_total_norm(gradients) if gradients else loss.new_zeros(())
    finite = torch.stack([loss.detach().isfinite(), norm.isfinite()]).float()
    if get_world_size() > 1:
        all_reduce(finite, op='min')
    loss_is_finite, gradient_is_finite = finite.tolist()
    return 'loss' if not loss_is_finite else 'gradient' if not gradient_is_finite else None


class RunningStatistics:
    """Copy of all buffers that a forward pass moves: those of the networks, not of the head.

    Args:
        model: The model, unwrapped.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = [module for name, module in model.named_modules() if name.partition('.')[0] != 'head']
        self._slots = [(module._buffers, key) for module in modules for key in module._buffers]
        self._copies: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}

    def _tensors(self) -> list[Tensor]:
        return [tensor for buffers, key in self._slots if (tensor := buffers[key]) is not None]

    @torch.no_grad()
    def keep(self) -> None:
        """Copy the buffers as they are."""
        groups: dict[torch.dtype, list[Tensor]] = {}
        for tensor in self._tensors():
            groups.setdefault(tensor.dtype, []).append(tensor)
        for dtype, tensors in groups.items():
            copies = self._copies.get(dtype, ([], []))[1]
            if len(copies) != len(tensors):
                copies = [torch.empty_like(tensor) for tensor in tensors]
            torch._foreach_copy_(copies, tensors)
            self._copies[dtype] = tensors, copies

    @torch.no_grad()
    def restore(self) -> None:
        """Write the copies back."""
        copies = [copy for _, group in self._copies.values() for copy in group]
        originals = [tensor for dtype in self._copies for tensor in self._tensors() if tensor.dtype == dtype]
        for tensor, copy in zip(originals, copies, strict=True):
            tensor.copy_(copy)
