"""Errors of what runs beside the training: workers of a DataLoader, other ranks, backends of the visualizer."""

import logging
import re
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FrameType
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import FlexibleRunner, Runner
from mmengine.visualization import Visualizer

from unmix.engine.start import collective_timeout
from unmix.utils.files import free_mib

SHARED_MEMORY = '/dev/shm'
_FULL = re.compile(
    r'Bus error|out of shared memory|shared memory object|'
    r'(unable to|could not) (write to|open|mmap|allocate|resize).*(torch_|shm|No space left|Cannot allocate)'
)
_WORKER = re.compile(
    r'DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\) (is killed by signal: ([\w ]+)|exited unexpectedly)'
)
_NO_NUMBER = 'Pin memory thread exited unexpectedly'  # so PyTorch, when that thread lost a worker
_RANK = re.compile(
    r'closed by peer|[Cc]onnection reset|Broken pipe|Timed out waiting|[Tt]imeout.*collective|NCCL|ProcessGroup'
)
_OFFLINE = ' With WANDB_MODE=offline in the environment W&B needs no account and no network.'
_LOGS = ('add_graph', 'add_image', 'add_scalar', 'add_scalars', 'add_datasample', 'close')


class WorkerWatch:
    """Keeps the error about a data worker that has ended until an iteration is complete.

    PyTorch raises it in a signal handler, so in the middle of anything; then the state could not be saved.
    """

    def __init__(self) -> None:
        self._error: RuntimeError | None = None
        self._theirs: Any = None

    def __enter__(self) -> None: ...

    def begin(self) -> None:
        """Take the place of PyTorch's signal handler, which is there once a loader has workers."""
        if not hasattr(signal, 'SIGCHLD') or threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(signal.SIGCHLD)
        if callable(handler) and handler != self._handle:
            self._theirs = handler
            signal.signal(signal.SIGCHLD, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        try:
            self._theirs(number, frame)
        except RuntimeError as error:
            self._error = error

    def check(self) -> None:
        """Raise the error that was kept.

        Raises:
            RuntimeError: A worker has ended.
        """
        if self._error is not None:
            raise self._error

    def __exit__(self, *_: object) -> None:
        """Give PyTorch's handler back."""
        if self._theirs is not None:
            signal.signal(signal.SIGCHLD, self._theirs)


@contextmanager
def failures_explained(runner: Runner | FlexibleRunner) -> Iterator[None]:
    """Turn the error that follows from the end of another process into one that says what ended and what to do.

    Raises:
        ChildProcessError: In the place of the error about a worker of a DataLoader.
        ConnectionError: In the place of the error about another rank.
        OSError: If the shared memory, by which workers pass batches on, is full.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        text = str(error)
        again = f'Go on by --resume from the last checkpoint in {runner.work_dir}.'
        worker = _WORKER.search(text)
        # A batch is fetched from its worker by a socket, which can break before PyTorch knows that the worker ended.
        unfetched = not isinstance(error, RuntimeError)
        if unfetched and not _raised_in(error, '_try_get_data'):
            raise
        if _FULL.search(text):
            raise OSError(
                f'The shared memory {SHARED_MEMORY}, by which workers pass batches on, is full: '
                f'{free_mib(SHARED_MEMORY):.0f} MiB are free. Give it more room (docker run --shm-size=8g, or '
                f'--ipc=host), or take fewer workers: train_dataloader.num_workers=2, or 0 for none. {again}'
            ) from error
        if worker is not None or _NO_NUMBER in text or unfetched:
            which = f' (process {worker[1]})' if worker else ''
            how = f'was ended by a signal ({worker[3].strip()})' if worker and worker[3] else 'has ended'
            raise ChildProcessError(
                f'A worker of a DataLoader{which} {how}. If it crashed, its own message is above. If the system had '
                'no memory left, its log (dmesg) names the process: take fewer workers (train_dataloader.num_workers), '
                f'or a smaller train_dataloader.batch_size. {again}'
            ) from error
        if _RANK.search(text):
            raise ConnectionError(
                f'Another process of this run has ended, or does not answer: {text.strip().splitlines()[0]}. Its own '
                'output, or that of its machine, has the reason. If it was only slow, allow more than '
                f'{collective_timeout(runner.cfg) or 1800:g} s: --cfg-options env_cfg.dist_cfg.timeout=7200. {again}'
            ) from error
        raise


def _raised_in(error: BaseException, function: str) -> bool:
    return any(frame.f_code.co_name == function for frame, _ in traceback.walk_tb(error.__traceback__))


def keep_going(visualizer: Visualizer) -> None:
    """Let a training go on without a backend of the visualizer that raises; a warning names it once.

    A backend that cannot even start, such as one without a login, is an error.
    """
    for name, backend in visualizer._vis_backends.items():
        lost: list[str] = []
        for method in _LOGS:
            if hasattr(backend, method):
                setattr(backend, method, _guarded(getattr(backend, method), name, lost))
        backend.add_config = _started(backend.add_config, name)


def _guarded(method: Callable[..., Any], name: str, lost: list[str]) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if lost:
            return None
        try:
            return method(*args, **kwargs)
        except Exception as error:
            lost.append(name)
            text = ' '.join(str(error).split())
            print_log(
                f'visualizer.vis_backends: {name} failed in {method.__name__} ({type(error).__name__}: {text}). It '
                'gets no more values; the training goes on, with its other logs.',
                'current',
                logging.WARNING,
            )
            return None

    return call


def _started(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            text = ' '.join(str(error).split())
            raise ValueError(
                f'visualizer.vis_backends: {name} cannot be started ({type(error).__name__}: {text}). Mend that, or '
                f'leave it out of visualizer.vis_backends.{_OFFLINE if name == "WandbVisBackend" else ""}'
            ) from error

    return call
