"""MMEngine's two bookkeeping hooks without their cost per iteration."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.hooks import IterTimerHook, RuntimeInfoHook
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from torch import Tensor

from unmix.registry import HOOKS


class ScalarBuffer(HistoryBuffer):
    """MMEngine's ``HistoryBuffer`` that takes tensors without waiting for them.

    ``update`` keeps a tensor on its device: no host synchronisation, no copy of the history. The tensors are read, all
    at once, when the history is asked for (``mean``, ``current``, ``data``, ...), so a reader sees the same as in a
    ``HistoryBuffer``. In a checkpoint it is a plain ``HistoryBuffer``.

    Args:
        log_history: Values so far.
        count_history: Their counts.
        max_length: Number of values to keep.
    """

    def __init__(
        self,
        log_history: Sequence[float] | np.ndarray = (),
        count_history: Sequence[float] | np.ndarray = (),
        max_length: int = 1000,
    ) -> None:
        self._set_default_statistics()
        self._entries: deque[tuple[float | Tensor, float]] = deque(maxlen=max_length)
        self._entries.extend(zip(map(float, log_history), count_history, strict=True))

    def update(self, log_val: float | Tensor, count: float = 1) -> None:
        """Add a number or a tensor of one element; a tensor on a CPU is read at once, which costs nothing."""
        if isinstance(log_val, Tensor):
            log_val = log_val.item() if log_val.is_cpu else log_val.detach().reshape(())
        self._entries.append((log_val, count))

    @property
    def _log_history(self) -> np.ndarray:  # HistoryBuffer's statistics read these two
        tensors = [value for value, _ in self._entries if isinstance(value, Tensor)]
        if tensors:
            same = len({tensor.dtype for tensor in tensors}) == 1
            read = iter(torch.stack(tensors if same else [tensor.double() for tensor in tensors]).tolist())
            entries = [(next(read) if isinstance(value, Tensor) else value, count) for value, count in self._entries]
            self._entries = deque(entries, self._entries.maxlen)
        return np.array([value for value, _ in self._entries], dtype=np.float64)

    @property
    def _count_history(self) -> np.ndarray:
        return np.array([count for _, count in self._entries], dtype=np.float64)

    def __deepcopy__(self, memo: dict[int, Any]) -> HistoryBuffer:
        return HistoryBuffer(self._log_history.tolist(), self._count_history.tolist())

    def __reduce__(self) -> tuple[Callable[..., HistoryBuffer], tuple[Any, ...]]:
        return HistoryBuffer, (self._log_history.tolist(), self._count_history.tolist())


def push_scalar(runner: Runner, key: str, value: float | Tensor) -> None:
    """``runner.message_hub.update_scalar(key, value)``, through a :class:`ScalarBuffer`."""
    buffer = runner.message_hub.log_scalars.get(key)
    if isinstance(buffer, ScalarBuffer):
        buffer.update(value)
    else:
        runner.message_hub.update_scalar(key, value)  # once: MMEngine notes the key as one to resume
        bound_scalar(runner, key)


def bound_scalar(runner: Runner, key: str) -> None:
    """Keep of the history of ``key`` one epoch, and the widest window of the log processor."""
    scalars, processor = runner.message_hub.log_scalars, runner.log_processor
    if isinstance(scalars[key], ScalarBuffer):
        return
    windows = [processor.window_size, *(cfg.get('window_size', 1) for cfg in processor.custom_cfg)]
    numbers = [window for window in windows if isinstance(window, int)]
    length = max(len(runner.train_dataloader), *numbers, 1_000_000 if 'global' in windows else 1)
    values, counts = scalars[key].data
    scalars[key] = ScalarBuffer(values, counts, length)


@HOOKS.register_module()
class LazyRuntimeInfoHook(RuntimeInfoHook):
    """Write epoch, iteration, learning rates and losses to the message hub, without waiting for the losses.

    Keys and values are those of MMEngine's hook. Only the histories are shorter, those of other hooks too: they keep
    one epoch, or the widest window of the log processor if that is more.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """Bound the histories that other hooks have opened."""
        super().before_train_epoch(runner)
        for key in runner.message_hub.log_scalars:
            bound_scalar(runner, key)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note the iteration and the learning rates."""
        runner.message_hub.update_info('iter', runner.iter)
        for name, values in runner.optim_wrapper.get_lr().items():
            push_scalar(runner, f'train/{name}', values[0])

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Note the loss terms."""
        for name, value in (outputs or {}).items():
            push_scalar(runner, f'train/{name}', value)


@HOOKS.register_module()
class LazyTimerHook(IterTimerHook):
    """Write ``time`` and ``data_time`` of each iteration and the time left, as MMEngine's hook does."""

    def before_train(self, runner: Runner) -> None:
        """Start counting from the iteration resumed."""
        super().before_train(runner)
        self.t = time.time()
        self._done, self._todo = 0, runner.max_iters - runner.iter

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note how long the batch was waited for."""
        push_scalar(runner, 'train/data_time', time.time() - self.t)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Note how long the iteration took, the wait included."""
        now = time.time()
        push_scalar(runner, 'train/time', now - self.t)
        self.time_sec_tot += now - self.t
        self.t = now
        self._done += 1
        runner.message_hub.update_info('eta', self.time_sec_tot / self._done * (self._todo - self._done))
