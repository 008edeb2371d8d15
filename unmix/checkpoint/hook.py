"""Checkpoints that are never traded for nothing."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.runner import Runner

from unmix.checkpoint.latest import PASSING
from unmix.checkpoint.save import CheckpointWriter
from unmix.registry import HOOKS
from unmix.utils.accumulation import between_steps
from unmix.utils.files import leftovers

_LOOK = 10  # iterations between two looks at rank 0's clock, which the other ranks have to be told


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's hook, in an order that survives a crash and a full disk at every point.

    A checkpoint is written beside its place, brought to the disk and renamed; then ``last_checkpoint`` names it; then
    those that ``max_keep_ckpts`` and ``save_best`` make obsolete are removed, and what a signal or the time had saved
    in between. MMEngine removes them first. Rank 0 writes, and all ranks learn how it ended. Temporary files that a
    killed run has left are removed before training. A checkpoint that holds NaN or infinity is not written, and ends
    the run (:func:`unmix.checkpoint.save.refuse_nonfinite`).

    Args:
        interval_minutes: Also save ``iter_N.pth`` when so much time has passed since the last checkpoint, at the end of
            an iteration that ends with an optimiser step. The next checkpoint replaces it. None: do not.
        on_write_error: What is done about a checkpoint that cannot be written, such as on a full disk. ``'stop'``: the
            run ends with the error. ``'warn'``: it is logged, training goes on, another one is written after the next
            epoch or interval, and one more after the training, which stops if even that fails.
        background: Whether a thread writes the file while training goes on, one file at a time. It holds the whole
            file in memory until it is written. An error is acted upon when the next checkpoint is due, or at the end.
        *args: As for MMEngine's CheckpointHook.
        **kwargs: As for MMEngine's CheckpointHook; ``backend_args`` is refused, since checkpoints are local files.

    Raises:
        ValueError: If ``on_write_error`` is another word, or checkpoints are not to be local files.
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
        """Find out what earlier runs have left."""
        super().before_train(runner)
        self._since = time.monotonic()
        runner.message_hub.update_info(PASSING, runner.message_hub.get_info(PASSING, []))
        self.last_ckpt = runner.message_hub.get_info('last_ckpt')  # MMEngine forgets it: no new best would be resumable
        if is_main_process() and Path(self.out_dir).is_dir():
            for path in leftovers(self.out_dir, '.pth'):
                runner.logger.info(f'Removing {path}, which a killed run had begun to write')
                path.unlink(missing_ok=True)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Let no two checkpoints be written at a time, whoever saves this one. Rank 0 only."""
        self.writer.wait()

    def every_n_epochs(self, runner: Runner, n: int, start: int = 0) -> bool:
        """Whether a checkpoint is due after this epoch."""
        return self.writer.owed or super().every_n_epochs(runner, n, start)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Save if the number of iterations or the time says so."""
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if self.interval_minutes is None:
            return
        if runner.iter % _LOOK == 0:
            due = [time.monotonic() - self._since >= 60 * self.interval_minutes]
            broadcast_object_list(due, src=0)
            self._due = due[0]
        if self._due and between_steps(runner.optim_wrapper):
            step = runner.iter + 1
            runner.logger.info(f'Saving checkpoint at {step} iterations, for the time that has passed')
            with self._saving(runner, name := f'iter_{step}.pth'):
                runner.message_hub.update_info(PASSING, [name])
                self._save(runner, name, dict(epoch=runner.epoch, iter=step), by_epoch=False)

    def after_train(self, runner: Runner) -> None:
        """Wait for the last checkpoint; if it could not be written, or is one that a signal had saved, save again."""
        self.writer.settle(runner)
        if self.writer.owed or (self.save_last and runner.message_hub.get_info(PASSING)):
            self.writer.on_error = 'stop'
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            self._save_checkpoint_with_step(runner, runner.epoch if self.by_epoch else runner.iter, meta)
            self.writer.settle(runner)
        super().after_train(runner)

    def on_abort(self, runner: Runner) -> None:
        """Wait for what is being written."""
        self.writer.abort(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        with self._saving(runner, name := self.filename_tmpl.format(step)) as outdated:
            if self.max_keep_ckpts > 0:
                steps = [old for old in self.keep_ckpt_ids if old != step] + [step]
                self.keep_ckpt_ids = deque(steps, self.max_keep_ckpts)
                runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
                outdated += [self._path(self.filename_tmpl.format(old)) for old in steps[: -self.max_keep_ckpts]]
            self._save(runner, name, meta, self.by_epoch)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, float]) -> None:
        if not self.save_best:
            return
        backend = self.file_backend
        try:
            with self.writer.saving(runner, latest=False) as outdated:
                self.file_backend = _RemoveLater(outdated)
                super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend

    @contextmanager
    def _saving(self, runner: Runner, name: str) -> Iterator[list[str]]:
        """Save a checkpoint from which training can go on."""
        with self.writer.saving(runner, latest=True) as outdated:
            self._since, self._due = time.monotonic(), False
            self.last_ckpt = self._path(name)
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

    def _path(self, name: str) -> str:
        return str(Path(self.out_dir, name))


class _RemoveLater(LocalBackend):
    """Puts what MMEngine removes, before it has written what is to replace it, on a list."""

    def __init__(self, outdated: list[str]) -> None:
        super().__init__()
        self.outdated = outdated

    def remove(self, filepath: str | Path) -> None:
        """Note a file or a directory."""
        self.outdated.append(str(filepath))

    rmtree = remove
