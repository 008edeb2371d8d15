"""Schedules after a linear warm-up of a number of iterations, in closed form."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.param_scheduler import INF, OptimizerType

from unmix.registry import PARAM_SCHEDULERS


class _WarmupLR(_ParamScheduler):
    """``lr(i) = lr0 (i + 1) / warmup`` in iteration i < warmup, then ``lr0 * _after(i)``, a function of i alone."""

    def __init__(
        self, optimizer: OptimizerType, epoch_length: int | None, warmup: int, end: int, last_step: int, verbose: bool
    ) -> None:
        if epoch_length is None:
            raise ValueError(
                f'param_scheduler {type(self).__name__} counts iterations and has to know how many an epoch has: set '
                'convert_to_iter_based=True beside its type.'
            )
        if warmup < 0:
            raise ValueError(f'param_scheduler.warmup is {warmup}; it is a number of iterations, 0 for none.')
        self.epoch_length, self.warmup = epoch_length, warmup
        super().__init__(optimizer, 'lr', end=end, last_step=last_step, by_epoch=False, verbose=verbose)

    @classmethod
    def build_iter_from_epoch(
        cls, optimizer: OptimizerType, epoch_length: int, end: int = INF, by_epoch: bool = True, **kwargs: Any
    ) -> '_WarmupLR':
        """Build the schedule of a training whose epochs have ``epoch_length`` iterations."""
        end = end if end == INF else end * epoch_length
        return cls(optimizer, epoch_length=epoch_length, end=end, **kwargs)

    def _get_value(self) -> list[float]:
        i = self.last_step
        if i < self.warmup:
            return [base * (i + 1) / self.warmup for base in self.base_values]
        return [self._after(i, base) for base in self.base_values]

    @abstractmethod
    def _after(self, i: int, base: float) -> float:
        """Return the rate of iteration i, after the warm-up."""


@PARAM_SCHEDULERS.register_module()
class WarmupStepLR(_WarmupLR):
    """Linear warm-up over iterations, then a factor ``gamma`` at each milestone, as htdt's W-MSE repository does.

    A milestone that the warm-up runs over has no effect, as there. Needs ``convert_to_iter_based=True``.

    Args:
        optimizer: Optimiser or wrapper; the Runner passes it.
        milestones: First epochs with a lower rate.
        gamma: Factor.
        warmup: Iterations of the warm-up, which reaches the full rate in its last one; 0 for none.
        epoch_length: Iterations of an epoch; the Runner passes it.
        end: First iteration after the schedule.
        last_step: Last step done, for resuming without a state dict.
        verbose: Print each value.

    Raises:
        ValueError: If it does not know ``epoch_length``, or ``warmup`` is negative.
    """

    def __init__(
        self,
        optimizer: OptimizerType,
        milestones: Sequence[int],
        gamma: float = 0.2,
        warmup: int = 500,
        epoch_length: int | None = None,
        end: int = INF,
        last_step: int = -1,
        verbose: bool = False,
    ) -> None:
        self.milestones, self.gamma = tuple(milestones), gamma
        super().__init__(optimizer, epoch_length, warmup, end, last_step, verbose)

    def _after(self, i: int, base: float) -> float:
        passed = sum(self.warmup <= epoch * self.epoch_length <= i for epoch in self.milestones)
        return base * self.gamma**passed


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_WarmupLR):
    """Linear warm-up over iterations, then a cosine of the epochs done, with restarts, as htdt's repository does.

    ``lr(i) = eta_min + (lr0 - eta_min) (1 + cos(pi t / T)) / 2``, where t is the time in epochs, counted through the
    warm-up, since the last restart, and T the epochs between restarts. The released code sets the rate after a step to
    that of the step's own beginning, so the time is that of iteration i - 1, and a restart comes one iteration late.
    Needs ``convert_to_iter_based=True``.

    Args:
        optimizer: Optimiser or wrapper; the Runner passes it.
        T_0: Epochs to the first restart; default the whole training.
        T_mult: Factor of the epochs to each next restart.
        eta_min: Lowest rate.
        warmup: Iterations of the warm-up, which reaches the full rate in its last one; 0 for none.
        epoch_length: Iterations of an epoch; the Runner passes it.
        end: First iteration after the schedule.
        last_step: Last step done, for resuming without a state dict.
        verbose: Print each value.

    Raises:
        ValueError: If it does not know ``epoch_length``, or ``warmup`` is negative.
    """

    def __init__(
        self,
        optimizer: OptimizerType,
        T_0: int | None = None,
        T_mult: int = 1,
        eta_min: float = 0.0,
        warmup: int = 500,
        epoch_length: int | None = None,
        end: int = INF,
        last_step: int = -1,
        verbose: bool = False,
    ) -> None:
        self.T_0, self.T_mult, self.eta_min = T_0 or end // (epoch_length or 1), T_mult, eta_min
        super().__init__(optimizer, epoch_length, warmup, end, last_step, verbose)

    def _after(self, i: int, base: float) -> float:
        if i == 0:
            return base
        epoch, batch = divmod(i - 1, self.epoch_length)
        time, period = epoch + batch / self.epoch_length, self.T_0
        while time >= period:
            time, period = time - period, period * self.T_mult
        return self.eta_min + (base - self.eta_min) * (1 + math.cos(math.pi * time / period)) / 2
