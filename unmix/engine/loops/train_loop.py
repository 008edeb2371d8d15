"""Training loop that can be resumed between any two iterations."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank, get_world_size, is_main_process
from mmengine.model import BaseDataPreprocessor
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from unmix.checkpoint.data import DataRecord
from unmix.checkpoint.identity import RunHistory, name_latest, remove_own
from unmix.checkpoint.latest import PASSING
from unmix.checkpoint.resume import StepRemainder, batches_done, follow_seed, resume_command
from unmix.engine.device import describe_use
from unmix.engine.failures import WorkerWatch
from unmix.engine.hooks.skip_hook import SkipHook, check_skipping
from unmix.engine.loader import epoch_of_stream
from unmix.engine.loops.stop_signal import StopSignal, shield_workers
from unmix.engine.prefetch import Prefetcher
from unmix.engine.sizes import check_schedules, check_sizes
from unmix.engine.start import check_start
from unmix.engine.step import TrainStep
from unmix.registry import LOOPS
from unmix.utils.accumulation import between_steps
from unmix.utils.dist import agreed, unwrap
from unmix.utils.rng import reseed_step


@LOOPS.register_module()
class TrainLoop(EpochBasedTrainLoop):
    """MMEngine's epoch loop that resumes in the middle of an epoch and stops cleanly.

    * A checkpoint saved after n batches of an epoch resumes with batch n of that epoch: the sampler starts there
      (``set_start``), so no batch is loaded in vain. For samplers without ``set_start``, n batches are loaded and
      dropped. MMEngine's loop restarts the epoch and runs n iterations too many.
    * Training data may be a stream, an ``IterableDataset`` with a length; see :func:`epoch_of_stream`. It is resumed by
      loading and dropping too, so it goes on as it was if each of its passes gives the same samples.
    * A checkpoint may also be in the middle of a gradient accumulation: see :class:`StepRemainder`.
    * Each iteration seeds the global random generators, which dropout uses, by (seed, iteration, rank).
    * Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2: the iteration is finished (with gradient accumulation: the optimiser
      step), a checkpoint saved, the command that resumes printed, and the process ends with 128 + the signal's number.
      During a validation this happens after it.
    * An error of the data, such as a worker that the system has ended or a file server that is gone: a checkpoint is
      saved in the same way, where there is one process, and the error is raised.
    * A run resumed at the end of an epoch first does the validation that was due there and not done.
    * A resumed run that has done all its epochs says so, and calls no hook.

    On an accelerator the next batch is copied to the device while a step computes (:class:`Prefetcher`). Hooks get the
    batch on the host, and a batch counts once its iteration is complete.

    If a signal or an error ends the training, ``on_abort(runner)`` of each hook that has this method is called.

    Args:
        runner: The runner.
        dataloader: Training data, or its config.
        max_epochs: Number of epochs.
        extend: Whether the schedules of a resumed run are those of the config, as if the run had had them from the
            start, instead of those of the checkpoint. For a run that gets more epochs.
        prefetch: Whether batches are copied ahead, where there is an accelerator.
        **kwargs: When to validate, as in MMEngine's ``EpochBasedTrainLoop``: ``val_begin``, ``val_interval``,
            ``dynamic_intervals``. The last epoch is always validated.

    Attributes:
        step: Takes the training steps, see :class:`TrainStep`.

    Raises:
        ValueError: If data set, batch, head and schedules do not fit each other, or there is no epoch.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader[Any] | dict[str, Any],
        max_epochs: int,
        extend: bool = False,
        prefetch: bool = True,
        **kwargs: Any,
    ) -> None:
        if max_epochs < 1:
            raise ValueError(f'train_cfg.max_epochs is {max_epochs}; it must be 1 or more.')
        super().__init__(runner, dataloader, max_epochs, **kwargs)
        self._steps = len(self.dataloader)
        check_sizes(runner, self.dataloader, _batch_size(self.dataloader), max_epochs)
        check_schedules(runner, max_epochs, self._max_iters)
        shield_workers(self.dataloader)
        sampler = getattr(self.dataloader.batch_sampler, 'sampler', self.dataloader.sampler)
        if check_skipping(self.dataloader.dataset, sampler):
            runner.register_hook(SkipHook())
        self._seed = runner.seed
        self._remainder, self._history = StepRemainder(extend), RunHistory()
        for hook in (self._remainder, DataRecord(), self._history):
            runner.register_hook(hook)
        self._prefetch = prefetch
        self._prefetcher: Prefetcher | None = None
        self._stop = StopSignal()
        self._workers = WorkerWatch()
        self._iter = 0
        self._done = 0  # batches of this epoch

    def run(self) -> nn.Module:
        """Train until the last epoch, and validate in between."""
        self._done = batches_done(self.runner, self._steps)
        if self._done == 0 and self._iter != self._epoch * self._steps:  # epochs have another length now
            self._iter = self._epoch * self._steps
            self.runner.optim_wrapper.initialize_count_status(self.runner.model, self._iter, self._max_iters)
        if self._finished():
            return self.runner.model
        self._remainder.restore(self.runner)
        follow_seed(self.runner, self.dataloader, self._seed)
        self._begin = self._iter
        check_start(self.runner)
        self.step = TrainStep(self.runner.model, self.runner.optim_wrapper)
        self.runner.logger.info(describe_use(self.runner, prefetch=self._prefetches()))
        try:
            with self._stop, self._workers:
                self.runner.call_hook('before_train')
                if self._done == 0 and self._epoch > 0:
                    self._validate()
                while self._epoch < self._max_epochs and not self.stop_training:
                    self.run_epoch()
                    self._stop_if_asked()
                    self._validate()
                    self._stop_if_asked()
                self.runner.call_hook('after_train')
        except BaseException:
            self.runner.call_hook('on_abort')
            raise
        finally:
            self.step.close()
        return self.runner.model

    def _finished(self) -> bool:
        """Return whether a resumed run has nothing left to do, and say so."""
        done = self._epoch + (self._done == self._steps)  # the last iteration may be done, and what follows it not
        if done < self._max_epochs:
            return False
        message = f'Nothing is left to train: train_cfg.max_epochs is {self._max_epochs}, and {done} are done.'
        to_do = (
            self._done > 0 or self.runner.message_hub.get_info(PASSING) or (self._val_due() and not self._validated())
        )
        if done == self._max_epochs and to_do and not self._history.finished(self.runner):
            self.runner.logger.info(f'{message} What follows the last iteration is done now.')
            return False
        self.runner.logger.warning(
            f'{message} For more: --resume --extend --cfg-options train_cfg.max_epochs={2 * done}'
        )
        return True

    def run_epoch(self) -> None:
        """Run the rest of the current epoch."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for idx, data_batch in enumerate(self._batches(), start=self._done):
            self.run_iter(idx, data_batch)
            self._done = idx + 1
            if self._done < self._steps:
                self._stop_if_asked()
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self._done = 0

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Run one iteration, and the hooks before and after it."""
        self.runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        reseed_step(self.runner.seed, self._iter, get_rank())
        batch = data_batch if self._prefetcher is None else self._prefetcher.on_device()
        outputs = self.step.run(batch)
        self.runner.call_hook('after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)
        self._iter += 1

    def _batches(self) -> Iterator[Any]:
        """Yield the batches of this epoch from number ``_done`` on."""
        batch_sampler = self.dataloader.batch_sampler
        sampler = getattr(batch_sampler, 'sampler', self.dataloader.sampler)  # batch samplers of others may have none
        skip = self._done
        if hasattr(sampler, 'set_start'):  # torch's and MMEngine's samplers have none
            sampler.set_start(skip * (_batch_size(self.dataloader) or 1))
            skip = 0
        iterator: Iterator[Any] = iter(self.dataloader)
        self._workers.begin()
        if isinstance(self.dataloader.dataset, IterableDataset):
            iterator = epoch_of_stream(iterator, self.dataloader, self._steps)
        for _ in range(skip):
            next(iterator)
        if self._prefetches():
            iterator = self._prefetcher = Prefetcher(iterator, unwrap(self.runner.model).data_preprocessor)
        while True:
            try:
                self._workers.check()
                data_batch = next(iterator)
            except StopIteration:
                return
            except Exception as error:  # the iteration before is complete
                if self._stop.number:  # the signal has ended a data worker too
                    self._leave()
                if self._iter > self._begin and get_world_size() == 1:  # other ranks would wait for this one
                    try:
                        self._leave()
                    except (OSError, ValueError) as other:
                        self.runner.logger.error(f'{other}. The reason to save was: {error}')
                self._workers.check()  # names the signal that ended a worker
                raise
            yield data_batch

    def _prefetches(self) -> bool:
        """Return whether batches are copied ahead: if there is something to copy, and another stream to do it."""
        preprocessor = getattr(unwrap(self.runner.model), 'data_preprocessor', None)
        return self._prefetch and isinstance(preprocessor, BaseDataPreprocessor) and preprocessor.device.type == 'cuda'

    def _val_due(self) -> bool:
        """Return whether a validation is due after the epochs done."""
        self._decide_current_val_interval()
        due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        return self.runner.val_loop is not None and due and self._epoch >= self.val_begin

    def _validated(self) -> bool:
        return bool(self.runner.message_hub.get_info('validated_epoch') == self._epoch)

    def _validate(self) -> None:
        """Validate if it is due after the epochs done, and has not been done before an interruption."""
        if not self._val_due() or self._validated():
            return
        hub, before = self.runner.message_hub, self.runner.message_hub.get_info('validated_epoch')
        # Set before: CheckpointHook saves at the end of the best validation, with this number.
        hub.update_info('validated_epoch', self._epoch)
        try:
            self.runner.val_loop.run()
        except RuntimeError:
            if self._stop.number:  # the signal has ended a data worker too; the validation is done after a resumption
                hub.update_info('validated_epoch', before)
                self._leave()
            raise

    def _stop_if_asked(self) -> None:
        """Save and end the run after a signal, but not in the middle of a gradient accumulation."""
        if self._stop.requested() and between_steps(self.runner.optim_wrapper):
            self._leave()

    def _leave(self) -> None:
        """Save, print how to go on, and after a signal end the process."""
        runner, name = self.runner, f'interrupted_iter_{self._iter}.pth'
        path, meta = Path(runner.work_dir, name), {'epoch': self._epoch, 'iter': self._iter}
        replaced = [old for old in runner.message_hub.get_info(PASSING, []) if old != name]
        runner.message_hub.update_info(PASSING, [*replaced, name])
        with agreed():
            runner.save_checkpoint(runner.work_dir, name, meta=meta, by_epoch=False)
            if is_main_process():
                name_latest(runner.work_dir, str(path))
                remove_own([Path(runner.work_dir, old) for old in replaced], self._history.run)
        runner.logger.warning(
            f'Stopped after {self._iter} of {self._max_iters} iterations; all is saved in {path}. To go on:\n'
            + resume_command(runner.cfg.filename, runner.work_dir)
        )
        if self._stop.number:
            raise SystemExit(self._stop.exit_code)


def _batch_size(dataloader: DataLoader[Any]) -> int | None:
    return getattr(dataloader.batch_sampler, 'batch_size', dataloader.batch_size)  # a batch sampler may have none
