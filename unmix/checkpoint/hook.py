"""Hook that writes checkpoints."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import Runner
from torch import distributed

from unmix.checkpoint.latest import PASSING
from unmix.checkpoint.save import CheckpointWriter
from unmix.registry import HOOKS
from unmix.utils.accumulation import between_steps
from unmix.utils.dist import host_group
from unmix.utils.files import leftovers

_LOOK = 10  # iterations between two broadcasts of rank 0's clock


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's hook, which leaves a complete checkpoint after a crash or on a full disk.

    Rank 0 writes a temporary file, flushes it to the disk and renames it. Then it writes the path to
    ``last_checkpoint``. Then it removes the checkpoints that ``max_keep_ckpts`` and ``save_best`` make obsolete, and
    those that a signal or ``interval_minutes`` saved in between; MMEngine removes them first. All ranks receive its
    error. Before training, temporary files of killed runs are removed. A checkpoint with NaN or infinity is not
    written, and the run ends (:func:`unmix.checkpoint.save.refuse_nonfinite`).

    Args:
        interval_minutes: Time after the last checkpoint when ``iter_N.pth`` is saved, at the end of an iteration with
            an optimiser step. The next checkpoint replaces it. None: no such checkpoints.
        on_write_error: Reaction to a file that cannot be written, such as on a full disk. ``'stop'``: the run ends
            with the error. ``'warn'``: the error is logged and training continues. A checkpoint is written after the
            next epoch or interval, and again after the training; if that one fails, the run ends with the error.
        background: Whether training continues while a thread writes the file. The thread writes one file at a time,
            and holds it in memory. Its error is raised or logged at the next checkpoint, or at the end.
        *args: As for MMEngine's CheckpointHook.
        **kwargs: As for MMEngine's CheckpointHook; ``backend_args`` is refused, since checkpoints are local files.

    Raises:
        ValueError: If ``on_write_error`` has another value, or the checkpoints would not be local files.
    """

    keep_ckpt_ids: deque[Any]
    file_backend: Any

    def __init__(
        self,
        *args: Any,
        interval_minutes: float | None = None,
        on_write_error: str = 'stop',
        background: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if on_write_error not in ('stop', 'warn'):
            raise ValueError(f"default_hooks.checkpoint.on_write_error is {on_write_error!r}; it is 'stop' or 'warn'.")
        if self.backend_args or self.file_client_args or '://' in str(self.out_dir):
            raise ValueError(
                f'default_hooks.checkpoint has out_dir={self.out_dir!r}, backend_args={self.backend_args!r}, but '
                'checkpoints are local files. Give a mounted directory as out_dir, and no backend_args.'
            )
        self.interval_minutes = interval_minutes
        self.writer = CheckpointWriter(self, on_write_error, background)
        self._since, self._due = time.monotonic(), False

    def before_train(self, runner: Runner) -> None:
        """Restore the notes of a resumed run, and remove temporary files of killed runs."""
        super().before_train(runner)
        self._since = time.monotonic()
        runner.message_hub.update_info(PASSING, runner.message_hub.get_info(PASSING, []))
        self.last_ckpt = runner.message_hub.get_info('last_ckpt')  # MMEngine does not restore it
        if is_main_process() and Path(self.out_dir).is_dir():
            for path in leftovers(self.out_dir, '.pth'):
                runner.logger.info(f'Removing {path}, which a killed run did not finish')
                path.unlink(missing_ok=True)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Wait until the last checkpoint is written, so that one is written at a time. Rank 0 only."""
        self.writer.wait()

    def every_n_epochs(self, runner: Runner, n: int, start: int = 0) -> bool:
        """Return whether a checkpoint is due after this epoch."""
        return self.writer.owed or super().every_n_epochs(runner, n, start)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Save if the number of iterations or the time is reached."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if self.interval_minutes is None:
            return
        if runner.iter % _LOOK == 0:
            due = torch.tensor(time.monotonic() - self._since >= 60 * self.interval_minutes)
            if get_world_size() > 1:
                distributed.broadcast(due, src=0, group=host_group())
            self._due = bool(due)
        if self._due and between_steps(runner.optim_wrapper):
            step = runner.iter + 1
            runner.logger.info(f'Saving checkpoint at {step} iterations: {self.interval_minutes} minutes have passed')
            with self._saving(runner, name := f'iter_{step}.pth'):
                runner.message_hub.update_info(PASSING, [name])
                self._save(runner, name, dict(epoch=runner.epoch, iter=step), by_epoch=False)

    def after_train(self, runner: Runner) -> None:
        """Wait for the last checkpoint; save again if it was not written, or is one of a signal or of the time."""
        self.writer.settle(runner)
        if self.writer.owed or (self.save_last and runner.message_hub.get_info(PASSING)):
            self.writer.on_error = 'stop'
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            self._save_checkpoint_with_step(runner, runner.epoch if self.by_epoch else runner.iter, meta)
            self.writer.settle(runner)
        super().after_train(runner)

    def on_abort(self, runner: Runner) -> None:
        """Wait for the file that is being written."""
        self.writer.abort(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        with self._saving(runner, name := self.filename_tmpl.format(step)) as outdated:
            if self.max_keep_ckpts > 0:
                steps = [old for old in self.keep_ckpt_ids if old != step] + [step]
                self.keep_ckpt_ids = deque(steps, self.max_keep_ckpts)
                runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
                old_names = map(self.filename_tmpl.format, steps[: -self.max_keep_ckpts])
                outdated += [str(Path(self.out_dir, old)) for old in old_names]
            self._save(runner, name, meta, self.by_epoch)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        if not self.save_best:
            return
        backend = self.file_backend
        remove_later: Any = LocalBackend()  # MMEngine removes the old file before the new one is written
        try:
            with self.writer.saving(runner, latest=False) as outdated:
                remove_later.remove = remove_later.rmtree = outdated.append
                self.file_backend = remove_later
                super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend

    @contextmanager
    def _saving(self, runner: Runner, name: str) -> Iterator[list[str]]:
        """Save a checkpoint for resumption."""
        with self.writer.saving(runner, latest=True) as outdated:
            self._since, self._due = time.monotonic(), False
            self.last_ckpt = str(Path(self.out_dir, name))
            runner.message_hub.update_info('last_ckpt', self.last_ckpt)
            names = runner.message_hub.get_info(PASSING, [])  # by time in out_dir, by a signal in the work dir
            runner.message_hub.update_info(PASSING, [])
            outdated += [str(Path(folder, name)) for name in names for folder in {self.out_dir, runner.work_dir}]
            yield outdated

    def _save(self, runner: Runner, name: str, meta: dict[str, Any], by_epoch: bool) -> None:
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=by_epoch,
            **self.args,
        )
