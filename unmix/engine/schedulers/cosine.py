"""Half a cosine, in closed form."""

import math
from typing import Any

from mmengine.optim import _ParamScheduler
from mmengine.optim.scheduler.param_scheduler import INF, OptimizerType

from unmix.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class CosineLR(_ParamScheduler):
    """Let the learning rate fall along half a cosine.

    ``lr(t) = eta_min + (lr0 - eta_min) * (1 + cos(pi * (t + first_epoch) / T_max)) / 2`` with t = 0, 1, ... the epochs
    since ``begin`` (iterations with ``by_epoch=False``). A function of t alone: exact after any resume, while
    MMEngine's recursive ``CosineAnnealingLR`` drifts by about 1e-7.

    MoCo's ImageNet script and SwAV count from 0: the first epoch has the full rate and the last one lr(T_max - 1) > 0.
    Un-Mix's CIFAR script counts epochs from 1, so the first epoch is already below and the last one is trained with a
    learning rate of exactly 0: ``first_epoch=1``.

    Args:
        optimizer: Optimiser or wrapper; the Runner passes it.
        T_max: Length; default ``end - begin``, which in a Runner is the whole training.
        eta_min: Final learning rate.
        first_epoch: Number of the first epoch, 0 or 1.
        begin: First epoch (or iteration) of the schedule.
        end: First one after it.
        last_step: Last step done, for resuming without a state dict.
        by_epoch: Count epochs; otherwise iterations.
        verbose: Print each value.

    Raises:
        ValueError: If ``first_epoch`` is neither 0 nor 1, or 1 where iterations are counted.
    """

    def __init__(
        self,
        optimizer: OptimizerType,
        T_max: int | None = None,
        eta_min: float = 0.0,
        first_epoch: int = 0,
        begin: int = 0,
        end: int = INF,
        last_step: int = -1,
        by_epoch: bool = True,
        verbose: bool = False,
    ) -> None:
        if first_epoch not in (0, 1):
            raise ValueError(f'param_scheduler.first_epoch is {first_epoch!r}; epochs are counted from 0 or from 1.')
        if first_epoch == 1 and not by_epoch:
            raise ValueError('param_scheduler.first_epoch is 1 with by_epoch=False; iterations are counted from 0.')
        self.T_max = T_max or end - begin
        self.eta_min = eta_min
        self.first_epoch = first_epoch
        super().__init__(optimizer, 'lr', begin, end, last_step, by_epoch, verbose)

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args: Any,
        epoch_length: int,
        T_max: int | None = None,
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        **kwargs: Any,
    ) -> 'CosineLR':
        """Build the same schedule with a value for each iteration (``convert_to_iter_based=True``)."""
        return cls(
            *args,  # type: ignore[misc]
            T_max=None if T_max is None else T_max * epoch_length,
            begin=begin * epoch_length,
            end=end if end == INF else end * epoch_length,
            by_epoch=False,
            **kwargs,
        )

    def _get_value(self) -> list[float]:
        share = 0.5 * (1 + math.cos(math.pi * (self.last_step + self.first_epoch) / self.T_max))
        return [self.eta_min + (base - self.eta_min) * share for base in self.base_values]
