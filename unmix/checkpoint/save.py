"""Saving, at once or in the background.

MMEngine calls :func:`save_checkpoint` for each checkpoint (:mod:`unmix.compat`).
:class:`unmix.checkpoint.hook.CheckpointHook` writes by a :class:`CheckpointWriter`.
"""

import copy
import io
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch import Tensor

from unmix.checkpoint.files import write_checkpoint
from unmix.checkpoint.identity import name_latest, read_saved, remove_own
from unmix.checkpoint.latest import PASSING, newest_whole
from unmix.utils.dist import agreed

_OF_HOOK = ('keep_ckpt_ids', 'last_ckpt', 'best_ckpt_path', 'best_ckpt_path_dict')
_OF_HUB = ('keep_ckpt_ids', 'last_ckpt', PASSING, 'best_')  # prefixes of names

_mmengine_save = mmengine_checkpoint.save_checkpoint
_writer: ContextVar[Callable[[io.BytesIO, str], None]] = ContextVar('writer', default=write_checkpoint)


def save_checkpoint(
    checkpoint: dict[str, Any],
    filename: str,
    file_client_args: dict[str, Any] | None = None,
    backend_args: dict[str, Any] | None = None,
) -> None:
    """Seal and write a local file by :func:`write_checkpoint`; replaces MMEngine's function.

    Host memory holds the whole file before it is written, as in MMEngine.

    Args:
        checkpoint: The content.
        filename: The file.
        file_client_args: As for MMEngine's function.
        backend_args: As for MMEngine's function.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If a tensor is NaN or infinite, in a run of the scope ``unmix``; other toolboxes may want that.
    """
    scope = DefaultScope.get_current_instance()
    if scope is not None and scope.scope_name == 'unmix':
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
        ValueError: If a tensor is not finite. The message names it, and the checkpoint to resume.
    """
    for key in ('state_dict', 'optimizer'):
        for name, tensor in _tensors(checkpoint.get(key) if isinstance(checkpoint, Mapping) else None):
            if _finite(tensor):
                continue
            try:
                older = newest_whole(Path(filename).parent)
            except ValueError:  # all are damaged
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
    """Return whether all values are finite. ``aminmax`` reads the tensor once, and returns NaN if there is one."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    least, greatest = torch.aminmax(tensor.detach().float() if tensor.element_size() == 1 else tensor.detach())
    return math.isfinite(least) and math.isfinite(greatest)


class CheckpointWriter:
    """Writes on rank 0, by a thread, and reports errors to all ranks in :meth:`settle`.

    Args:
        hook: The hook whose attributes are restored if a file could not be written.
        on_error: ``'stop'`` or ``'warn'``, as for :class:`CheckpointHook`.
        background: Whether :meth:`saving` returns before the file is written.

    Attributes:
        owed: Whether the last checkpoint could not be written.
    """

    def __init__(self, hook: Hook, on_error: str, background: bool) -> None:
        self.hook, self.on_error, self.background = hook, on_error, background
        self.owed = False
        self._thread = ThreadPoolExecutor(1, 'checkpoint')
        self._work: Future[None] | None = None  # on rank 0
        self._restore: Callable[[], None] | None = None  # on all ranks, while a checkpoint is being written

    @contextmanager
    def saving(self, runner: Runner, latest: bool) -> Iterator[list[str]]:
        """Write the checkpoints that are saved in this context. All ranks must enter it.

        Args:
            runner: The Runner.
            latest: Whether ``last_checkpoint`` gets the path.

        Yields:
            A list for the paths of files that are removed after the checkpoint has been written.

        Raises:
            ValueError: If the checkpoint is not finite.
        """
        self.settle(runner)
        outdated: list[str] = []
        self._restore = _snapshot(self.hook, runner.message_hub)
        if latest:
            self.owed = False

        def write(buffer: io.BytesIO, path: str) -> None:
            named_in = runner.work_dir if latest else None
            self._work = self._thread.submit(_job, self._work, buffer, path, named_in, outdated[:])
            outdated.clear()

        with agreed():  # a checkpoint that is not finite ends the run on all ranks
            token = _writer.set(write)
            try:
                yield outdated
            except OSError as error:  # RowsOnDisk writes its table when the state dict is made
                self._work = Future()
                self._work.set_exception(error)
            finally:
                _writer.reset(token)
        if not self.background:
            self.settle(runner)

    def settle(self, runner: Runner) -> None:
        """Wait until the last checkpoint is written, and handle its error on all ranks.

        Raises:
            OSError: If it failed and ``on_error`` is ``'stop'``.
        """
        if self._restore is None:
            return
        restore, self._restore = self._restore, None
        work, self._work = self._work, None
        try:
            with agreed():
                if work is not None:
                    work.result()
        except OSError as error:
            restore()
            self.owed = True
            if self.on_error == 'stop':
                raise
            runner.logger.error(f'{error}. Training goes on, since default_hooks.checkpoint.on_write_error is "warn"')

    def wait(self) -> None:
        """Wait for the file that is being written; its error is left to :meth:`settle`."""
        if self._work is not None:
            wait([self._work])

    def abort(self, runner: Runner) -> None:
        """Wait, and log an error; call no collective, since other ranks may have ended."""
        if self._work is not None and (error := self._work.exception()):
            runner.logger.error(str(error))
        self._work = self._restore = None


def _snapshot(hook: Hook, hub: MessageHub) -> Callable[[], None]:
    """Copy what MMEngine's hook writes to itself and the message hub before a file is written.

    Returns:
        A function that restores it.
    """
    of_hook = copy.deepcopy({name: vars(hook)[name] for name in _OF_HOOK if name in vars(hook)})
    of_hub = copy.deepcopy({name: info for name, info in hub.runtime_info.items() if name.startswith(_OF_HUB)})

    def restore() -> None:
        vars(hook).update(of_hook)
        for name in [name for name in hub.runtime_info if name.startswith(_OF_HUB) and name not in of_hub]:
            hub.pop_info(name)
        hub.update_info_dict(of_hub)

    return restore


def _job(
    previous: Future[None] | None, buffer: io.BytesIO, path: str, named_in: str | None, outdated: list[str]
) -> None:
    """Write a checkpoint, then write its path to ``last_checkpoint``, then remove outdated files."""
    if previous is not None:
        previous.result()  # another one of the same validation; raises its error
    write_checkpoint(buffer, path)
    if named_in is not None and is_main_process():
        name_latest(named_in, path)
    # Remove files only beside it or in the work dir, and only those of its run: a resumed checkpoint may name others.
    folders = {Path(folder).resolve() for folder in (Path(path).parent, named_in) if folder is not None}
    old = [old for old in map(Path, outdated) if old != Path(path) and old.parent.resolve() in folders]
    if old and (saved := read_saved(path)) is not None:
        remove_own(old, saved.run)
