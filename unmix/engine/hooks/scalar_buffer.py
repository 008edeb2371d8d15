"""A history of scalars that costs nothing until somebody reads it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from torch import Tensor

MAX_PENDING = 1000


class ScalarBuffer(HistoryBuffer):
    """MMEngine's ``HistoryBuffer`` with lazy values and a bounded length.

    ``push`` keeps a tensor on its device: no host synchronisation, no copy of the history. The tensors are read, all at
    once, when the history is asked for (``mean``, ``current``, ``data``, ...), so every reader sees what it would see
    in a ``HistoryBuffer``. MMEngine's ``update`` copies the whole history, up to a million values, at every call.

    In a checkpoint it is a plain ``HistoryBuffer``.

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
        self.max_length = max_length
        # Twice the length: the newest half moves to the front when the store is full, which is O(1) per value.
        self._store = np.empty((2, 2 * max_length))
        self._end = 0
        self._pending: list[tuple[float | Tensor, float]] = []
        self._write(np.array([log_history, count_history], dtype=np.float64)[:, -max_length:])

    def push(self, value: float | Tensor, count: float = 1) -> None:
        """Add a number or a tensor of one element."""
        if isinstance(value, Tensor):  # reading costs a host synchronisation on an accelerator, nothing on a CPU
            value = value.item() if value.is_cpu else value.detach()
        self._pending.append((value, count))
        if len(self._pending) >= MAX_PENDING:
            self._flush()

    def update(self, log_val: float, count: float = 1) -> None:
        """Add a number, as ``MessageHub.update_scalar`` does."""
        self.push(log_val, count)

    def _flush(self) -> None:
        if not self._pending:
            return
        values, counts = zip(*self._pending, strict=True)
        self._pending = []
        self._write(np.array([_numbers(values), counts], dtype=np.float64)[:, -self.max_length :])

    def _write(self, rows: np.ndarray) -> None:
        num = rows.shape[1]
        if self._end + num > self._store.shape[1]:
            keep = self.max_length - num
            self._store[:, :keep] = self._store[:, self._end - keep : self._end]
            self._end = keep
        self._store[:, self._end : self._end + num] = rows
        self._end += num

    def _history(self, row: int) -> np.ndarray:
        self._flush()
        return self._store[row, max(0, self._end - self.max_length) : self._end]

    @property
    def _log_history(self) -> np.ndarray:  # HistoryBuffer's statistics read these two
        return self._history(0)

    @property
    def _count_history(self) -> np.ndarray:
        return self._history(1)

    def __deepcopy__(self, memo: dict) -> HistoryBuffer:
        return HistoryBuffer(self._log_history.tolist(), self._count_history.tolist())

    def __reduce__(self) -> tuple[Callable, tuple[Any, ...]]:
        return HistoryBuffer, (self._log_history.tolist(), self._count_history.tolist())


def _numbers(values: Sequence[float | Tensor]) -> list[float]:
    """Read the tensors among ``values`` in one transfer."""
    tensors = [value for value in values if isinstance(value, Tensor)]
    if len({(tensor.device, tensor.dtype) for tensor in tensors}) != 1:
        return [float(value) for value in values]
    read = iter(torch.stack([tensor if tensor.dim() == 0 else tensor.reshape(()) for tensor in tensors]).tolist())
    return [next(read) if isinstance(value, Tensor) else value for value in values]


def push_scalar(hub: MessageHub, key: str, value: float | Tensor, max_length: int) -> None:
    """``hub.update_scalar(key, value)`` through a :class:`ScalarBuffer`."""
    buffer = hub.log_scalars.get(key)
    if isinstance(buffer, ScalarBuffer):
        buffer.push(value)
    else:
        hub.update_scalar(key, value)  # once: MMEngine books the key as one to resume
        bound_scalar(hub, key, max_length)


def bound_scalar(hub: MessageHub, key: str, max_length: int) -> None:
    """Let the history of ``key`` grow no longer than ``max_length``."""
    buffer = hub.log_scalars[key]
    if not isinstance(buffer, ScalarBuffer):
        values, counts = buffer.data
        hub.log_scalars[key] = ScalarBuffer(values, counts, max_length)
