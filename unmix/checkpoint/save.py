"""Saving: what is finite, at once or in the background; what was noted about a file that failed is taken back.

:func:`save_checkpoint` is what MMEngine calls for each checkpoint (:mod:`unmix.compat`), :class:`CheckpointWriter` what
:class:`unmix.checkpoint.hook.CheckpointHook` has it written by.
"""

import copy
import io
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import Tensor

from unmix.checkpoint.files import write_checkpoint
from unmix.checkpoint.latest import PASSING, name_latest, newest_whole
from unmix.utils.dist import agreed

_OF_HOOK = ('keep_ckpt_ids', 'last_ckpt', 'best_ckpt_path', 'best_ckpt_path_dict')
_OF_HUB = ('keep_ckpt_ids', 'last_ckpt', PASSING, 'best_')  # how names begin


Writer = Callable[[io.BytesIO, str], None]
_mmengine_save = mmengine_checkpoint.save_checkpoint
_writer: ContextVar[Writer] = ContextVar('writer', default=write_checkpoint)  # a CheckpointWriter sets it


def save_checkpoint(
    checkpoint: dict[str, Any],
    filename: str,
    file_client_args: dict[str, Any] | None = None,
    backend_args: dict[str, Any] | None = None,
) -> None:
    """Stand in for MMEngine's function of this name: local files are sealed and written by :func:`write_checkpoint`.

    The whole file is in host memory once before it is written, as with MMEngine's.

    Args:
        checkpoint: What is saved.
        filename: Where to.
        file_client_args: As for MMEngine's function.
        backend_args: As for MMEngine's function.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If a tensor is NaN or infinite.
    """
    refuse_nonfinite(checkpoint, filename)
    if file_client_args is not None or backend_args is not None or '://' in str(filename):
        _mmengine_save(checkpoint, filename, file_client_args, backend_args)
        return
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    _writer.get()(buffer, str(filename))


def refuse_nonfinite(checkpoint: Any, filename: str) -> None:
    """Check that each floating-point tensor of ``state_dict`` and ``optimizer`` is finite.

    Raises:
        ValueError: If one is not; names the first, and the checkpoint to go on from.
    """
    for key in ('state_dict', 'optimizer'):
        for name, tensor in _tensors(checkpoint.get(key) if isinstance(checkpoint, Mapping) else None):
            if _finite(tensor):
                continue
            try:
                older = newest_whole(Path(filename).parent)
            except ValueError:  # none of several is whole
                older = None
            start = f'Go on from {older}, the newest that is whole,' if older else 'No older one is whole: start anew'
            raise ValueError(
                f'checkpoint {str(filename)!r} is not written: {name} in its {key} is NaN or infinite in '
                f'{int((~tensor.float().isfinite()).sum())} of {tensor.numel()} values. {start} with a lower '
                'optim_wrapper.optimizer.lr, a longer warm-up, or optim_wrapper.clip_grad=dict(max_norm=1.0)'
            )


def _tensors(content: Any, name: str = '') -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors of nested containers, with dotted names."""
    if isinstance(content, Tensor):
        yield name, content
    elif isinstance(content, Mapping | list | tuple):
        for key, value in content.items() if isinstance(content, Mapping) else enumerate(content):
            yield from _tensors(value, f'{name}.{key}' if name else str(key))


def _finite(tensor: Tensor) -> bool:
    """Whether all values are finite; reads the tensor once, and NaN is both its least and its greatest value."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    least, greatest = torch.aminmax(tensor.detach().float() if tensor.element_size() == 1 else tensor.detach())
    return math.isfinite(least) and math.isfinite(greatest)


class CheckpointWriter:
    """Rank 0 writes, and all ranks learn how it ended: at once, or with a thread when they next ask.

    Args:
        hook: The hook whose notes are taken back if a file could not be written.
        on_error: ``'stop'`` or ``'warn'``, as for :class:`CheckpointHook`.
        background: Whether a thread writes.

    Attributes:
        owed: Whether the last checkpoint could not be written.
    """

    def __init__(self, hook: Hook, on_error: str, background: bool) -> None:
        self.hook, self.on_error = hook, on_error
        self.owed = False
        self._thread = ThreadPoolExecutor(1, 'checkpoint') if background else None
        self._work: Future[None] | None = None  # of rank 0
        self._notes: _Notes | None = None  # from before the checkpoint that is being written; on all ranks

    @contextmanager
    def saving(self, runner: Runner, latest: bool) -> Iterator[list[str]]:
        """Write what is saved in this context. All ranks must enter it.

        Args:
            runner: The Runner.
            latest: Whether ``last_checkpoint`` is to name it.

        Yields:
            A list for the paths that are to be removed after it has been written.

        Raises:
            ValueError: If what is saved is not finite.
        """
        self.settle(runner)
        outdated: list[str] = []
        self._notes = _Notes(self.hook, runner.message_hub)
        if latest:
            self.owed = False

        def write(buffer: io.BytesIO, path: str) -> None:
            job = partial(_job, self._work, buffer, path, runner.work_dir if latest else None, outdated[:])
            outdated.clear()
            self._work = self._thread.submit(job) if self._thread else _do(job)

        with agreed():  # a checkpoint that is not finite ends the run now, on all ranks
            token = _writer.set(write)
            try:
                yield outdated
            except OSError as error:  # the state dict cannot be made: RowsOnDisk writes its table then
                self._work = Future()
                self._work.set_exception(error)
            finally:
                _writer.reset(token)
        if not self._thread:
            self.settle(runner)

    def settle(self, runner: Runner) -> None:
        """Learn how the last writing ended, on all ranks, and act on it.

        Raises:
            OSError: If it failed and ``on_error`` is ``'stop'``.
        """
        if self._notes is None:
            return
        notes, self._notes = self._notes, None
        work, self._work = self._work, None
        try:
            with agreed():
                if work is not None:
                    work.result()
        except OSError as error:
            notes.restore()
            self.owed = True
            if self.on_error == 'stop':
                raise
            runner.logger.error(f'{error}. Training goes on, since default_hooks.checkpoint.on_write_error is "warn"')

    def wait(self) -> None:
        """Wait for the file that is being written, whether it succeeds or not."""
        if self._work is not None:
            wait([self._work])

    def abort(self, runner: Runner) -> None:
        """Wait as well, and log an error; the other ranks may be gone."""
        if self._work is not None and (error := self._work.exception()):
            runner.logger.error(str(error))
        self._work = self._notes = None


class _Notes:
    """What MMEngine's hook notes about files before they are written, in itself and in the message hub."""

    def __init__(self, hook: Hook, hub: MessageHub) -> None:
        self.hook, self.hub = hook, hub
        self._of_hook = copy.deepcopy({name: vars(hook)[name] for name in _OF_HOOK if name in vars(hook)})
        self._of_hub = copy.deepcopy(self._in_hub())

    def _in_hub(self) -> dict[str, Any]:
        return {name: info for name, info in self.hub.runtime_info.items() if name.startswith(_OF_HUB)}

    def restore(self) -> None:
        """Take back what was noted since."""
        vars(self.hook).update(self._of_hook)
        for name in self._in_hub().keys() - self._of_hub.keys():
            self.hub.pop_info(name)
        self.hub.update_info_dict(self._of_hub)


def _job(
    previous: Future[None] | None, buffer: io.BytesIO, path: str, named_in: str | None, outdated: list[str]
) -> None:
    """Write a checkpoint, then name it, then remove others."""
    if previous is not None:
        previous.result()  # of the same validation; its error is not passed over
    write_checkpoint(buffer, path)
    if named_in is not None and is_main_process():
        name_latest(named_in, path)
    # Only beside it or in the work dir: a resumed checkpoint may name files of another run, or any.
    folders = {Path(folder).resolve() for folder in (Path(path).parent, named_in) if folder is not None}
    for old in map(Path, outdated):
        if old != Path(path) and old.suffix == '.pth' and old.parent.resolve() in folders:
            old.unlink(missing_ok=True)


def _do(job: Callable[[], None]) -> Future[None]:
    """Do a job at once; the future says how it ended, as a thread's would."""
    future: Future[None] = Future()
    try:
        job()
        future.set_result(None)
    except OSError as error:
        future.set_exception(error)
    return future
