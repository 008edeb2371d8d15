"""Schedules of learning rate and weight decay in closed form."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.param_scheduler import INF, OptimizerType

from unmix.registry import PARAM_SCHEDULERS


class ClosedFormLR(_ParamScheduler):
    """Learning rate as a function of the step and the full rate alone, so exact after any resume.

    MMEngine's recursive ``CosineAnnealingLR`` drifts by about 1e-7. A subclass defines :meth:`_rate`, and lists in
    ``in_epochs`` the arguments that ``convert_to_iter_based=True`` converts from epochs to iterations.

    Parameters whose group has ``constant_lr=True`` keep their full rate, as SimSiam's predictor does. In a config it is
    ``optim_wrapper.paramwise_cfg=dict(custom_keys={'head.predictor': dict(constant_lr=True)})``.

    Args:
        optimizer: Optimiser or wrapper; the Runner passes it.
        begin: First epoch (or iteration) of the schedule.
        end: First one after it; in a Runner by default that of the whole training.
        epoch_length: Iterations of an epoch; the Runner passes it where ``convert_to_iter_based=True``.
        **kwargs: Of MMEngine's schedules: ``by_epoch``, ``last_step``, ``verbose``.
    """

    in_epochs: ClassVar[tuple[str, ...]] = ('begin', 'end')
    of: ClassVar[str] = 'lr'  # the setting of the optimiser that moves

    def __init__(
        self,
        optimizer: OptimizerType,
        begin: int = 0,
        end: int = INF,
        epoch_length: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.epoch_length = epoch_length
        super().__init__(optimizer, self.of, begin, end, **kwargs)

    @classmethod
    def build_iter_from_epoch(cls, *args: Any, epoch_length: int, **kwargs: Any) -> 'ClosedFormLR':
        """Build the same schedule with a value for each iteration (``convert_to_iter_based=True``)."""
        epochs = {name: kwargs[name] for name in cls.in_epochs if kwargs.get(name, INF) not in (None, INF)}
        iterations = {name: number * epoch_length for name, number in epochs.items()}
        return cls(*args, **kwargs | iterations | dict(by_epoch=False, epoch_length=epoch_length))

    def _get_value(self) -> list[float]:
        groups = zip(self.optimizer.param_groups, self.base_values, strict=True)
        constant = f'constant_{self.of}'
        return [base if group.get(constant) else self._rate(self.last_step, base) for group, base in groups]

    @abstractmethod
    def _rate(self, t: int, base: float) -> float:
        """Return the rate of step t = 0, 1, ... since ``begin``, where the full rate is ``base``."""


def half_cosine(start: float, end: float, t: float, length: float) -> float:
    """``end + (start - end) * (1 + cos(pi * t / length)) / 2``: from ``start`` at t = 0 to ``end`` at ``length``."""
    return end + (start - end) * (0.5 * (1 + math.cos(math.pi * t / length)))


@PARAM_SCHEDULERS.register_module()
class CosineLR(ClosedFormLR):
    """Let the learning rate fall along half a cosine.

    ``lr(t) = eta_min + (lr0 - eta_min) * (1 + cos(pi * (t + first_epoch) / T_max)) / 2`` with t = 0, 1, ... the epochs
    since ``begin`` (iterations with ``by_epoch=False``).

    MoCo's ImageNet script and SwAV count from 0: the first epoch has the full rate and the last one lr(T_max - 1) > 0.
    Un-Mix's CIFAR script counts epochs from 1, so the first epoch is already below and the last one is trained with a
    learning rate of exactly 0: ``first_epoch=1``.

    Args:
        optimizer: Optimiser or wrapper; the Runner passes it.
        T_max: Length; default ``end - begin``, which in a Runner is the whole training.
        eta_min: Final learning rate.
        first_epoch: Number of the first epoch, 0 or 1.
        **kwargs: Of :class:`ClosedFormLR`.

    Raises:
        ValueError: If ``first_epoch`` is neither 0 nor 1, or 1 where iterations are counted.
    """

    in_epochs = (*ClosedFormLR.in_epochs, 'T_max')

    def __init__(
        self,
        optimizer: OptimizerType,
        T_max: int | None = None,
        eta_min: float = 0.0,
        first_epoch: int = 0,
        **kwargs: Any,
    ) -> None:
        if first_epoch not in (0, 1):
            raise ValueError(f'param_scheduler.first_epoch is {first_epoch!r}; epochs are counted from 0 or from 1.')
        if first_epoch == 1 and not kwargs.get('by_epoch', True):
            raise ValueError('param_scheduler.first_epoch is 1 with by_epoch=False; iterations are counted from 0.')
        self.T_max, self.eta_min, self.first_epoch = T_max, eta_min, first_epoch
        super().__init__(optimizer, **kwargs)

    def _rate(self, t: int, base: float) -> float:
        return half_cosine(base, self.eta_min, t + self.first_epoch, self.T_max or self.end - self.begin)


@PARAM_SCHEDULERS.register_module()
class CosineWeightDecay(ClosedFormLR):
    """Let the weight decay move along half a cosine to a multiple of itself, as `DINO
    <https://arxiv.org/abs/2104.14294>`_ does.

    ``decay(t) = decay0 (end_factor + (1 - end_factor) (1 + cos(pi t / T)) / 2)`` for t = 0, 1, ... of T, so groups of
    parameters without decay stay without.

    Args:
        optimizer: Optimiser or wrapper; the Runner passes it.
        end_factor: Final decay over the first one, which is the optimiser's ``weight_decay``; 10 in DINO, 0.04 to 0.4.
        **kwargs: Of :class:`ClosedFormLR`.

    Raises:
        ValueError: If the factor is negative.
    """

    of = 'weight_decay'

    def __init__(self, optimizer: OptimizerType, end_factor: float = 10.0, **kwargs: Any) -> None:
        if end_factor < 0:
            raise ValueError(f'param_scheduler.end_factor is {end_factor}; it must not be negative.')
        self.end_factor = end_factor
        super().__init__(optimizer, **kwargs)

    def _rate(self, t: int, base: float) -> float:
        return half_cosine(base, self.end_factor * base, t, self.end - self.begin)


@PARAM_SCHEDULERS.register_module()
class RampCosineLR(ClosedFormLR):
    """Let the learning rate rise in a line to its full value, and fall along half a cosine.

    With W warm-up steps and T in all, ``lr(t) = warmup_lr + (lr0 - warmup_lr) * t / (W - 1)`` for t < W, so the full
    rate is reached in the last of them, and again in the first step of the cosine (or, with ``endpoint=False``, ``t /
    W``: in the cosine only),

    ``lr(t) = eta_min + (lr0 - eta_min) * (1 + cos(pi * (t - W) / (T - W))) / 2`` for t >= W,

    which approaches ``eta_min`` and does not reach it: SwAV's table. Give the lengths in epochs and
    ``convert_to_iter_based=True`` for a value for each iteration.

    Args:
        optimizer: Optimiser or wrapper; the Runner passes it.
        warmup: Length W of the warm-up; 0 for none.
        warmup_lr: Learning rate of the first step of the warm-up.
        eta_min: Final learning rate.
        eta_min_ratio: The same as a share of the full rate, where groups of parameters have rates of their own; None:
            ``eta_min``.
        endpoint: Whether the last step of the warm-up has the full rate, as in SwAV and DINO; False as in Barlow Twins,
            VICReg and MoCo v3. The name is numpy.linspace's.
        begin: First epoch (or iteration) of the schedule.
        end: First one after it; in a Runner by default that of the whole training.
        **kwargs: Of :class:`ClosedFormLR`.

    Raises:
        ValueError: If the warm-up is negative, or not shorter than the schedule.
    """

    in_epochs = (*ClosedFormLR.in_epochs, 'warmup')

    def __init__(
        self,
        optimizer: OptimizerType,
        warmup: int = 0,
        warmup_lr: float = 0.0,
        eta_min: float = 0.0,
        eta_min_ratio: float | None = None,
        endpoint: bool = True,
        begin: int = 0,
        end: int = INF,
        **kwargs: Any,
    ) -> None:
        if not 0 <= warmup < end - begin:
            raise ValueError(
                f'param_scheduler.warmup is {warmup}; it must lie between 0 and the length of the schedule, '
                f'{end - begin}, and the schedule needs an end.'
            )
        self.warmup, self.warmup_lr, self.endpoint = warmup, warmup_lr, endpoint
        self.eta_min, self.eta_min_ratio = eta_min, eta_min_ratio
        super().__init__(optimizer, begin, end, **kwargs)

    def _rate(self, t: int, base: float) -> float:
        if t < self.warmup:
            return self.warmup_lr + (base - self.warmup_lr) * (t / max(self.warmup - self.endpoint, 1))
        end = self.eta_min if self.eta_min_ratio is None else self.eta_min_ratio * base
        return half_cosine(base, end, t - self.warmup, self.end - self.begin - self.warmup)


class WarmupLR(ClosedFormLR):
    """``lr(i) = lr0 (i + 1) / warmup`` in iteration i < warmup, then :meth:`_after`, as in htdt's W-MSE repository.

    Needs ``convert_to_iter_based=True``: ``warmup`` counts iterations, and what the subclasses add counts epochs.

    Args:
        optimizer: Optimiser or wrapper; the Runner passes it.
        warmup: Iterations of the warm-up, which reaches the full rate in its last one; 0 for none.
        epoch_length: Iterations of an epoch; the Runner passes it.
        **kwargs: Of :class:`ClosedFormLR`.

    Raises:
        ValueError: If it does not know ``epoch_length``, or ``warmup`` is negative.
    """

    epoch_length: int

    def __init__(
        self, optimizer: OptimizerType, warmup: int = 500, epoch_length: int | None = None, **kwargs: Any
    ) -> None:
        if epoch_length is None:
            raise ValueError(
                f'param_scheduler {type(self).__name__} counts iterations and has to know how many an epoch has: set '
                'convert_to_iter_based=True beside its type.'
            )
        if warmup < 0:
            raise ValueError(f'param_scheduler.warmup is {warmup}; it is a number of iterations, 0 for none.')
        self.warmup = warmup
        super().__init__(optimizer, epoch_length=epoch_length, **kwargs | dict(by_epoch=False))

    def _rate(self, t: int, base: float) -> float:
        return base * (t + 1) / self.warmup if t < self.warmup else self._after(t, base)

    @abstractmethod
    def _after(self, i: int, base: float) -> float:
        """Return the rate of iteration i, after the warm-up."""


@PARAM_SCHEDULERS.register_module()
class WarmupStepLR(WarmupLR):
    """Linear warm-up over iterations, then a factor ``gamma`` at each milestone, as htdt's W-MSE repository does.

    A milestone that the warm-up runs over has no effect, as there. Needs ``convert_to_iter_based=True``.

    Args:
        optimizer: Optimiser or wrapper; the Runner passes it.
        milestones: First epochs with a lower rate.
        gamma: Factor.
        **kwargs: Of :class:`WarmupLR`, which says what is refused.
    """

    def __init__(self, optimizer: OptimizerType, milestones: Sequence[int], gamma: float = 0.2, **kwargs: Any) -> None:
        self.milestones, self.gamma = tuple(milestones), gamma
        super().__init__(optimizer, **kwargs)

    def _after(self, i: int, base: float) -> float:
        passed = sum(self.warmup <= epoch * self.epoch_length <= i for epoch in self.milestones)
        return base * self.gamma**passed


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(WarmupLR):
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
        **kwargs: Of :class:`WarmupLR`, which says what is refused.
    """

    def __init__(
        self,
        optimizer: OptimizerType,
        T_0: int | None = None,
        T_mult: int = 1,
        eta_min: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        super().__init__(optimizer, **kwargs)

    def _after(self, i: int, base: float) -> float:
        if i == 0:
            return base
        epoch, batch = divmod(i - 1, self.epoch_length)
        time = epoch + batch / self.epoch_length
        period = self.T_0 or (self.end - self.begin) // self.epoch_length
        while time >= period:
            time, period = time - period, period * self.T_mult
        return half_cosine(base, self.eta_min, time, period)
