"""Weights of the K most recent instances in slots, and of all others in a table."""

import weakref

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from unmix.models.functional.skipped_steps import Step, StepHistory
from unmix.utils.dist import concat_all_gather


class RecentInstances(nn.Module):
    """Keep the K most recently seen instances in slots, and the weights of all others as dense SGD would leave them.

    The weights in the slots are an ordinary parameter (K, D) of the optimiser. A row that enters is read from the
    table and gets the steps that it has missed, see :class:`StepHistory`. A row that leaves is written to the table
    with its momentum. The least recently used slots are reused first. All ranks see the instances of all ranks, so
    their slots agree. A step costs O(K + batch) and does not depend on the number of instances. It does not wait for
    the device.

    Args:
        num_instances: Number of instances.
        num_slots: K.
        weight: Initial weights (num_instances, D).
        max_phases: See :class:`StepHistory`.
        velocity: Initial momentum (num_instances, D). If given, neither ``weight`` nor ``velocity`` becomes a buffer:
            the caller saves them. None: zeros.

    Attributes:
        ids: Instance in each slot (K,), -1 in an empty slot.
        slots: Slot of each instance (num_instances,), -1 for instances outside.
        stamps: When each slot was last used (K,), counted in samples; no two are equal.
        left: Optimiser step, and phase, at which each instance left its slot (2, num_instances).
        weight: (num_instances, D), valid for instances outside.
        velocity: Momentum (num_instances, D), valid for instances outside.
        count: Number of samples seen, ().
    """

    ids: Tensor
    slots: Tensor
    stamps: Tensor
    left: Tensor
    weight: Tensor
    velocity: Tensor
    count: Tensor

    def __init__(
        self,
        num_instances: int,
        num_slots: int,
        weight: Tensor,
        max_phases: int = 65536,
        velocity: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.num_slots = num_slots
        self.register_buffer('ids', torch.full((num_slots,), -1))
        self.register_buffer('slots', torch.full((num_instances,), -1))
        self.register_buffer('stamps', torch.arange(-num_slots, 0))
        self.register_buffer('left', torch.zeros(2, num_instances, dtype=torch.long))
        if velocity is None:
            self.register_buffer('weight', weight)
            self.register_buffer('velocity', torch.zeros_like(weight))
        else:
            self.weight, self.velocity = weight, velocity
        self.register_buffer('count', torch.zeros((), dtype=torch.long))
        self.history = StepHistory(max_phases)
        self._optimizer: weakref.ref[Optimizer] | None = None
        self._group = 0  # parameter group of the optimiser that has the weights of the slots

    def follow(self, optimizer: Optimizer, parameter: nn.Parameter) -> None:
        """Read momentum and hyper-parameters from this optimiser from now on; ``parameter`` is (K, D).

        Raises:
            ValueError: If it is not plain SGD. Skipped steps have a closed form only for plain SGD.
        """
        groups = [group for group in optimizer.param_groups if any(p is parameter for p in group['params'])]
        if type(optimizer) is not SGD or not groups or groups[0]['nesterov'] or groups[0]['dampening']:
            raise ValueError(
                f'optim_wrapper.optimizer is {type(optimizer).__name__}, has nesterov or dampening, or does not train '
                "model.head.weight; head.num_recent needs dict(type='SGD', lr=..., momentum=..., weight_decay=...)."
            )
        self._optimizer = weakref.ref(optimizer)
        self._group = optimizer.param_groups.index(groups[0])

    def advance(self) -> None:
        """Count a step that the optimiser has taken with its present hyper-parameters.

        Raises:
            RuntimeError: If :meth:`follow` was not called.
        """
        if (optimizer := self._known_optimizer()) is None:
            raise RuntimeError(
                'model.head.weight has been trained, but head.num_recent does not know the optimiser: add '
                "dict(type='InstanceHook') to custom_hooks, or call model.head.follow(optimizer)."
            )
        group = optimizer.param_groups[self._group]
        self.history.advance(Step(*(float(group[key]) for key in ('lr', 'weight_decay', 'momentum'))))

    def _known_optimizer(self) -> Optimizer | None:
        return None if self._optimizer is None else self._optimizer()

    def _momentum_buffer(self, parameter: nn.Parameter) -> Tensor | None:
        """Return the optimiser's momentum of the slots (K, D); None without an optimiser, or before its first step."""
        optimizer = self._known_optimizer()
        if optimizer is None or parameter not in optimizer.state:
            return None
        buffer: Tensor | None = optimizer.state[parameter].get('momentum_buffer')
        return buffer

    @torch.no_grad()
    def enter(self, index: Tensor, parameter: nn.Parameter) -> None:
        """Give a slot to each instance of ``index`` (N,) of all ranks; a second call changes nothing.

        Rows of ``parameter`` (K, D) and of its momentum are exchanged with the table.

        Raises:
            ValueError: If the batch of all ranks has more samples than there are slots.
        """
        ids = concat_all_gather(index)
        if len(ids) > self.num_slots:
            raise ValueError(
                f'head.num_recent is {self.num_slots}, but a batch of all processes has {len(ids)} images; it must be '
                'at least that.'
            )
        momentum = self._momentum_buffer(parameter)
        slot, hit = self._find_slots(ids)
        old, own = self.ids[slot], parameter[slot]
        weight, velocity = self._up_to_date(ids, own)
        own_velocity = torch.zeros_like(own) if momentum is None else momentum[slot]
        # No instance leaves if the incoming one has a slot already or takes an empty one: its own row of the table is
        # then written back unchanged.
        stays = hit | (old < 0)
        leaving = torch.where(stays, ids, old)
        for table, rows in ((self.weight, own), (self.velocity, own_velocity)):
            rows = torch.where(stays[:, None], _read(table, ids, rows), rows)
            table.index_copy_(0, leaving.to(table.device), rows.to(table))
        now = torch.stack([self.history.steps, self.history.phase])[:, None]
        self.left.index_copy_(1, leaving, torch.where(stays, self.left[:, ids], now))
        self.slots.index_copy_(0, leaving, torch.where(hit, slot, -1))
        self.slots.index_copy_(0, ids, slot)
        self.ids.index_copy_(0, slot, ids)
        parameter.index_copy_(0, slot, torch.where(hit[:, None], own, weight))
        if momentum is not None:
            momentum.index_copy_(0, slot, torch.where(hit[:, None], own_velocity, velocity))

    def _find_slots(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Stamp and return the slot (G,) of each instance ``ids`` (G,), and whether it had this slot before."""
        place = torch.arange(len(ids), device=ids.device)
        first = (ids[:, None] == ids).int().argmax(1)  # where the instance occurs first in the batch
        slot, hit = self.slots[ids], self.slots[ids] >= 0
        # The same batch again, for example after a step that was left out, keeps its stamps.
        again = (hit & (self.stamps[slot] == self.count - len(ids) + first)).all()
        begin = torch.where(again, self.count - len(ids), self.count)
        stamp = begin + first
        self.count.copy_(begin + len(ids))
        self.stamps.scatter_reduce_(0, slot.clamp(min=0), torch.where(hit, stamp, -self.num_slots), 'amax')
        # The n-th instance without a slot takes the n-th oldest slot. The slots of this batch are the youngest.
        oldest = self.stamps.topk(len(ids), largest=False, sorted=True).indices
        rank = ((place == first) & ~hit).cumsum(0) - 1
        slot = torch.where(hit, slot, oldest[rank[first].clamp(min=0)])
        self.stamps.index_copy_(0, slot, stamp)
        return slot, hit

    def _up_to_date(self, ids: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight and momentum (G, D) of instances ``ids`` (G,) outside, after the steps they have missed."""
        skipped = self.history.since_step(*self.left[:, ids]).to(like.dtype)[..., None]
        weight, velocity = (_read(table, ids, like) for table in (self.weight, self.velocity))
        (now, by_velocity), (by_weight, stays) = skipped
        return now * weight + by_velocity * velocity, by_weight * weight + stays * velocity

    @torch.no_grad()
    def dense(self, parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
        """Return weight and momentum (num_instances, D) of all instances as dense SGD would have them now."""
        weight, velocity = self._up_to_date(torch.arange(len(self.slots), device=self.slots.device), parameter)
        momentum = self._momentum_buffer(parameter)
        inside = (self.slots >= 0)[:, None]
        slot = self.slots.clamp(min=0)
        own = torch.zeros_like(velocity) if momentum is None else momentum[slot]
        return torch.where(inside, parameter[slot], weight), torch.where(inside, own, velocity)

    @torch.no_grad()
    def flush(self, parameter: nn.Parameter) -> None:
        """Apply the missed steps to all rows of the table."""
        weight, velocity = self.dense(parameter)
        self.weight.copy_(weight)
        self.velocity.copy_(velocity)
        self.left.copy_(torch.stack([self.history.steps, self.history.phase])[:, None].expand_as(self.left))


def _read(table: Tensor, ids: Tensor, like: Tensor) -> Tensor:
    """Return rows (G, D) with the device and dtype of ``like``; a table on disk is float32 on the CPU."""
    return table[ids.to(table.device)].to(like)
