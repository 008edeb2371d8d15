"""Signals that ask a process to end become a flag that the loop reads between two iterations."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType, TracebackType
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dist import get_world_size
from torch.utils.data import DataLoader

from unmix.utils.dist import host_group

IMPATIENCE = 2.0
# Ctrl-C; clusters; a closed terminal; Slurm's --signal=USR1@60 or USR2@60. Windows lacks some.
SIGNALS = tuple(
    getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2') if hasattr(signal, name)
)


class StopSignal:
    """Catches :data:`SIGNALS` while it is entered; those that the process was started to ignore stay ignored (nohup).

    The first signal only sets a flag, so that the current iteration is finished. A Ctrl-C more than two seconds later
    ends the process at once; an earlier one is ignored, since launchers repeat the signal for their children.

    All processes must stop after the same iteration, or the others wait for ever in a collective.
    So the flags are reduced over the ranks, on the CPU, while the step computes; a signal counts one iteration later.

    Attributes:
        number: The signal received, 0 for none.
    """

    def __init__(self) -> None:
        self.number = 0
        self._since = 0.0
        self._old: dict[int, Any] = {}
        self._group: Any = None
        self._work: Any = None
        self._flag = torch.zeros(1, dtype=torch.int64)

    @property
    def exit_code(self) -> int:
        """Exit code by the shell's convention, 128 + the number: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number

    def __enter__(self) -> 'StopSignal':
        if get_world_size() > 1 and self._group is None:
            self._group = host_group()
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                # A job started with `nohup` ignores SIGHUP, one in the background of a script SIGINT; leave it so.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._old[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        while self._old:
            signal.signal(*self._old.popitem())

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.number == 0:
            self.number, self._since = number, time.monotonic()
            if number != signal.SIGINT and sys.platform != 'win32':
                # A cluster signals the data workers too. PyTorch would raise for that in the middle of the iteration.
                self._old.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_DFL))
        elif number == signal.SIGINT and time.monotonic() - self._since > IMPATIENCE:
            raise SystemExit(self.exit_code)

    def requested(self) -> bool:
        """Whether to stop now; the same answer on every rank. Call it at the same points on every rank."""
        if self._group is None:
            return self.number != 0
        if self._work is not None:
            self._work.wait()
        if self._flag.item():  # stays set, should the caller need some more iterations
            self.number, self._work = int(self._flag), None
            return True
        self._flag = torch.tensor([self.number])
        self._work = dist.all_reduce(self._flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return False


def shield_workers(dataloader: DataLoader[Any]) -> None:
    """Put the data workers into process groups of their own, where a Ctrl-C in the terminal does not reach them.

    They ignore the other signals that the main process catches, SIGTERM excepted, which PyTorch uses to end them. They
    end when the main process ends or asks them to.
    """
    if dataloader.num_workers > 0 and sys.platform != 'win32':
        dataloader.worker_init_fn = partial(_start_worker, dataloader.worker_init_fn)


def _start_worker(init_fn: Callable[[int], None] | None, worker_id: int) -> None:
    os.setpgid(0, 0)
    for number in SIGNALS:
        if number not in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    if init_fn is not None:
        init_fn(worker_id)
