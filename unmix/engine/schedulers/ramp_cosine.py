"""A linear warm-up, then half a cosine, in closed form."""

import math
from typing import Any

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.param_scheduler import INF, OptimizerType

from unmix.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class RampCosineLR(_ParamScheduler):
    """Let the learning rate rise in a line to its full value, and fall along half a cosine.

    With W warm-up steps and T in all, ``lr(t) = warmup_lr + (lr0 - warmup_lr) * t / (W - 1)`` for t < W, so the full
    rate is reached in the last of them, and again in the first step of the cosine,

    ``lr(t) = eta_min + (lr0 - eta_min) * (1 + cos(pi * (t - W) / (T - W))) / 2`` for t >= W,

    which approaches ``eta_min`` and does not reach it: SwAV's table. Give the lengths in epochs and
    ``convert_to_iter_based=True`` for a value for each iteration.

    Args:
        optimizer: Optimiser or wrapper; the Runner passes it.
        warmup: Length W of the warm-up; 0 for none.
        warmup_lr: Learning rate of the first step of the warm-up.
        eta_min: Final learning rate.
        begin: First epoch (or iteration) of the schedule.
        end: First one after it; in a Runner that of the whole training.
        last_step: Last step done, for resuming without a state dict.
        by_epoch: Count epochs; otherwise iterations.
        verbose: Print each value.

    Raises:
        ValueError: If the warm-up is negative, or not shorter than the schedule.
    """

    def __init__(
        self,
        optimizer: OptimizerType,
        warmup: int = 0,
        warmup_lr: float = 0.0,
        eta_min: float = 0.0,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if not 0 <= warmup < end - begin:
            raise ValueError(
                f'param_scheduler.warmup is {warmup}; it must lie between 0 and the length of the schedule, '
                f'{end - begin}, and the schedule needs an end.'
            )
        self.warmup = warmup
        self.warmup_lr = warmup_lr
        self.eta_min = eta_min
        self.length = end - begin
        super().__init__(optimizer, 'lr', begin, end, last_step, by_epoch, verbose)

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args: Any,
        epoch_length: int,
        warmup: int = 0,
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        **kwargs: Any,
    ) -> 'RampCosineLR':
        """Build the same schedule with a value for each iteration (``convert_to_iter_based=True``)."""
        return cls(
            *args,  # type: ignore[misc]
            warmup=warmup * epoch_length,
            begin=begin * epoch_length,
            end=end if end == INF else end * epoch_length,
            by_epoch=False,
            **kwargs,
        )

    def _get_value(self) -> list[float]:
        t = self.last_step
        if t < self.warmup:
            share = t / max(self.warmup - 1, 1)
            return [self.warmup_lr + (base - self.warmup_lr) * share for base in self.base_values]
        share = 0.5 * (1 + math.cos(math.pi * (t - self.warmup) / (self.length - self.warmup)))
        return [self.eta_min + (base - self.eta_min) * share for base in self.base_values]
