"""The effect of many SGD steps on a weight without gradient, applied at once.

Without gradient, an SGD step with learning rate eta, weight decay lambda and momentum mu is a linear map of a weight
and its momentum. The map is the same for each coordinate: ``(w, v) <- A (w, v)`` with
``A = [[1 - eta lambda, -eta mu], [lambda, mu]]``.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from unmix.utils.rng import to_device


class Step(NamedTuple):
    """Hyper-parameters of an SGD step."""

    lr: float
    weight_decay: float
    momentum: float


def skipped_steps(steps: Tensor, lr: Tensor, weight_decay: Tensor, momentum: Tensor) -> Tensor:
    """Return ``A^steps`` (2, 2, N) in float64 and in closed form, for constant hyper-parameters.

    By the Cayley-Hamilton theorem ``A^t = S_t A - mu S_(t-1) I`` with ``S_t = (r^t - q^t) / (r - q)``. Here r and q are
    the roots of ``x^2 - (1 + mu - eta lambda) x + mu``, real or a complex pair. ``1 - r`` is computed without
    cancellation.

    Args:
        steps: t, (N,) non-negative integers.
        lr: eta, (N,) or ().
        weight_decay: lambda, (N,) or ().
        momentum: mu, (N,) or (), in [0, 1).
    """
    t = steps.double()
    lr, weight_decay, momentum = (x.double().expand(t.shape) for x in (lr, weight_decay, momentum))
    decay = lr * weight_decay
    linear = 1 - momentum + decay
    square = linear**2 - 4 * decay
    difference = square.to(torch.complex128).sqrt()  # r - q
    shortfall = 2 * decay / (linear + difference)  # 1 - r
    log_r = torch.where(square >= 0, torch.log1p(-shortfall.real).to(torch.complex128), (1 - shortfall).log())
    log_q = (momentum / (1 - shortfall)).log()
    log_q = torch.where(momentum > 0, log_q, -1e4)  # q = 0
    equal = difference.abs() < 1e-8

    def s(n: Tensor) -> Tensor:
        distinct = ((n * log_r).exp() - (n * log_q).exp()) / torch.where(equal, 1.0, difference)
        return torch.where(equal, n * ((n - 1) * log_r).exp(), distinct).real

    now, before = s(t), s((t - 1).clamp(min=0))
    power = torch.stack(
        [
            torch.stack([(1 - decay) * now - momentum * before, -lr * momentum * now]),
            torch.stack([weight_decay * now, momentum * (now - before)]),
        ]
    )
    identity = torch.eye(2, dtype=torch.float64, device=t.device)[:, :, None]
    return torch.where(t == 0, identity, power)


class StepHistory(nn.Module):
    """The hyper-parameters of all steps so far, and the product of the maps ``A`` since any of them.

    Consecutive steps with the same hyper-parameters form a phase. Steps within a phase need no memory, because a phase
    has a closed form. When a phase ends, the products since the end of each earlier phase are multiplied by its map.
    With a constant learning rate there is one phase; if the rate changes in every iteration, each step is a phase.

    The oldest phases are dropped. A weight that was left alone before them gets only the maps of the phases kept.

    Args:
        max_phases: Number of phases that are kept.

    Attributes:
        steps: Number of steps, ().
        phase: Number of the current phase, from 0, ().
        begins: Step at which each phase begins, (max_phases,); phase p is at ``p % max_phases``.
        hyper: Learning rate, weight decay and momentum of each phase, (3, max_phases) float64.
        since: Product of the maps since the end of each phase, (2, 2, max_phases) float64.
    """

    steps: Tensor
    phase: Tensor
    begins: Tensor
    hyper: Tensor
    since: Tensor

    def __init__(self, max_phases: int = 65536) -> None:
        super().__init__()
        self.max_phases = max_phases
        self.register_buffer('steps', torch.zeros((), dtype=torch.long))
        self.register_buffer('phase', torch.zeros((), dtype=torch.long))
        self.register_buffer('begins', torch.zeros(max_phases, dtype=torch.long))
        self.register_buffer('hyper', torch.zeros(3, max_phases, dtype=torch.float64))
        self.register_buffer('since', torch.eye(2, dtype=torch.float64)[:, :, None].repeat(1, 1, max_phases))
        self._last: Step | None = None

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move to the device of the model, but keep float64."""
        exact = self.hyper, self.since
        move: Any = super()._apply
        move(fn, recurse)
        self.hyper, self.since = (x.to(self.steps.device) for x in exact)
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._last = Step(*self.hyper[:, self.phase % self.max_phases].tolist()) if self.steps > 0 else None

    @torch.no_grad()
    def advance(self, step: Step) -> None:
        """Count a step with these hyper-parameters."""
        if self._last is not None and step != self._last:
            self._end_phase()
        if step != self._last:
            place = (self.phase % self.max_phases).view(1)
            values = to_device(np.array(step), self.hyper.device)
            self.hyper.index_copy_(1, place, values[:, None])
            self._last = step
        self.steps += 1

    def _end_phase(self) -> None:
        place = (self.phase % self.max_phases).view(1)
        ended = self._power(self.steps - self.begins[place], place)[:, :, 0]
        self.since = torch.tensordot(ended, self.since, 1)
        self.since.index_copy_(2, place, torch.eye(2, dtype=torch.float64, device=place.device)[:, :, None])
        self.phase += 1
        self.begins.index_copy_(0, (self.phase % self.max_phases).view(1), self.steps.view(1))

    def _power(self, steps: Tensor, places: Tensor) -> Tensor:
        return skipped_steps(steps, *self.hyper[:, places])

    def since_step(self, step: Tensor, phase: Tensor) -> Tensor:
        """Return the product (2, 2, N) of the maps of all steps from ``step`` on.

        Args:
            step: ``steps`` at the time the weight was left alone, (N,).
            phase: ``phase`` at that time, (N,).
        """
        oldest = (self.phase - self.max_phases + 1).clamp(min=0)
        place = phase.clamp(min=oldest) % self.max_phases
        step = torch.maximum(step, self.begins[place])
        now = (self.phase % self.max_phases).view(1)  # one dimension: an index () would be read on the host
        current = phase == self.phase
        until = torch.where(current, self.steps, self.begins[(place + 1) % self.max_phases])
        own = self._power(until - step, place)
        rest = self._power((self.steps - self.begins[now]).expand_as(step), now.expand_as(place))
        later = torch.einsum('ijn,jkn->ikn', rest, torch.einsum('ijn,jkn->ikn', self.since[:, :, place], own))
        return torch.where(current, own, later)
