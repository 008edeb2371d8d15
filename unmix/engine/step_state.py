"""Takes a step back that has not reached the optimiser."""

from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from unmix.models.layers.noise_contrast import NoiseContrast
from unmix.utils.journal import Journal

Slot = tuple[dict[Any, Any], Any, str]  # where a tensor is kept, under which key, and its name


class StepState:
    """What a model is before a forward pass, which moves more than one would think: the momentum encoder, queues,
    banks, prototypes, BatchNorm's statistics, the optimiser's momentum of :class:`RecentInstances`.

    Tensors that a forward pass replaces need no copy, only a reference. Those that it writes in place, which their
    versions tell, are copied before each step; the very first step copies all, since nothing is known yet. Tables of
    which a step writes some rows keep a :class:`Journal` of these.

    Args:
        model: The model, unwrapped.
        optim_wrapper: Its optimiser; of the optimiser's state only that of ``model.head`` may move in a forward pass.
    """

    def __init__(self, model: nn.Module, optim_wrapper: OptimWrapper) -> None:
        self.model, self.optimizer = model, optim_wrapper.optimizer
        self._fixed: list[Slot] = []
        self._journals: list[Journal] = []
        self._written: set[int] = set()  # numbers of the slots that a forward pass writes in place
        self._silent: set[int] = set()  # those that it writes without a new version: BatchNorm's statistics
        for name, module in model.named_modules():
            journaled = ()
            if isinstance(journal := getattr(module, 'journal', None), Journal):
                self._journals.append(journal)
                journaled = module.journaled
            for tensors in (module._parameters, module._buffers):
                for key in [key for key, tensor in tensors.items() if tensor is not None and key not in journaled]:
                    if isinstance(module, _NormBase) and tensors is module._buffers:
                        self._silent.add(len(self._fixed))
                    self._fixed.append((tensors, key, f'{name}.{key}'.lstrip('.')))
        self._written |= self._silent
        self._slots: list[Slot] = []
        self._copies: dict[int, Tensor] = {}

    def _head_momentum(self) -> list[Slot]:
        head = getattr(self.model, 'head', None)
        parameters = [] if head is None else list(head.named_parameters())
        states = [(self.optimizer.state[p], name) for name, p in parameters if p in self.optimizer.state]
        return [
            (state, key, f'optimizer.{name}.{key}')
            for state, name in states
            for key, value in state.items()
            if isinstance(value, Tensor)
        ]

    @torch.no_grad()
    def hold(self) -> None:
        """Remember the state as it is."""
        for journal in self._journals:
            journal.open()
        known, self._slots = len(self._slots), self._fixed + self._head_momentum()
        self._held: list[Tensor] = [tensors[key] for tensors, key, _ in self._slots]
        self._versions = [tensor._version for tensor in self._held]
        groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for i in self._written.union(range(known, len(self._slots))):  # what is new may be written
            tensor = self._held[i].detach()
            if i not in self._copies or self._copies[i].shape != tensor.shape:
                self._copies[i] = torch.empty_like(tensor)
            for group, x in zip(groups.setdefault(tensor.dtype, ([], [])), (self._copies[i], tensor), strict=True):
                group.append(x)
        for copies, tensors in groups.values():
            torch._foreach_copy_(copies, tensors)

    def learn(self) -> None:
        """Call it after each forward pass: only what passes have written so far is copied before the next one."""
        pairs = zip(self._held, self._versions, strict=True)
        now = {i for i, (tensor, version) in enumerate(pairs) if tensor._version != version}
        self._written |= now
        self._copies = {i: copy for i, copy in self._copies.items() if i in self._written}

    @torch.no_grad()
    def restore(self) -> list[str]:
        """Bring the state of the last :meth:`hold` back; return the names of what no copy was made of.

        That is what this pass wrote in place, and no pass before it.
        """
        for journal in self._journals:
            journal.undo()
        lost = []
        for i, (tensors, key, name) in enumerate(self._slots):
            held = self._held[i]
            if held._version != self._versions[i] or i in self._silent:
                if i in self._copies:
                    held.copy_(self._copies[i])
                else:
                    lost.append(name)
            if tensors[key] is not held:
                tensors[key] = held
        for module in self.model.modules():
            if isinstance(module, NoiseContrast):
                module.pending = True  # its constant may not be settled any more
        return lost
