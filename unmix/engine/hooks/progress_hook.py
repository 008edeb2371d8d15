"""Progress of a training on the terminal."""

import datetime
import sys
import time
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from unmix.engine.runner import console_handlers, quiet
from unmix.registry import HOOKS
from unmix.utils.clock import is_trained

REFRESH = 0.5


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show one line about the training: a live bar on a terminal, else a line every ``interval``.

    The line has every loss term, the learning rate, time per step, the share of it spent waiting for data, memory (peak
    on CUDA, resident on a CPU) and the time left. LoggerHook's lines go to the log file and ``scalars.json`` only.

    Args:
        interval: Number of epochs or iterations between two lines; the last one is always printed.
        by_epoch: Whether the interval is in epochs.
    """

    priority = 'LOW'

    def __init__(self, interval: int = 1, by_epoch: bool = True) -> None:
        if interval < 1:
            raise ValueError(f'default_hooks.progress.interval is {interval}; it must be at least 1.')
        self.interval = interval
        self.by_epoch = by_epoch
        self._bar: Progress | None = None
        self._shown = 0.0

    def before_run(self, runner: Runner) -> None:
        """Keep LoggerHook's lines off the terminal."""
        quiet(runner.logger)

    def before_train(self, runner: Runner) -> None:
        """Open the bar if the output is a terminal."""
        self._max_iters = runner.max_iters
        if is_main_process() and sys.stdout.isatty():
            columns = [TextColumn('epoch {task.fields[epoch]}'), BarColumn(20), TextColumn('{task.fields[line]}')]
            self._bar = Progress(*columns, console=Console(), auto_refresh=False)
            self._bar.add_task('', total=self._max_iters, completed=runner.iter, epoch='', line='')
            self._bar.start()
            for handler in console_handlers(runner.logger):  # log lines go above the bar
                handler.setStream(sys.stdout)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Move the bar, or print the line."""
        if self._bar is not None:
            if time.monotonic() - self._shown > REFRESH:
                self._draw(runner)
        elif not self.by_epoch:
            done = runner.iter + 1
            if done % self.interval == 0 or done == self._max_iters:
                self._print(f'iter {done}/{self._max_iters}  {progress_line(runner)}')

    def after_train_epoch(self, runner: Runner) -> None:
        """Move the bar, or print the line."""
        if self._bar is not None:
            self._draw(runner)
        elif self.by_epoch and (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            self._print(f'epoch {_epoch(runner)}  {progress_line(runner)}')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Print the metrics."""
        numbers = {name: value for name, value in (metrics or {}).items() if isinstance(value, (int, float))}
        when = f' after epoch {runner.epoch}' if is_trained(runner) else ''
        self._print(f'evaluation{when}  ' + _join(numbers, '.2f'))

    def after_train(self, runner: Runner) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            for handler in console_handlers(runner.logger):
                handler.setStream(sys.stdout)

    on_abort = after_train

    def _draw(self, runner: Runner) -> None:
        assert self._bar is not None
        self._bar.update(
            self._bar.task_ids[0], completed=runner.iter + 1, epoch=_epoch(runner), line=progress_line(runner)
        )
        self._bar.refresh()
        self._shown = time.monotonic()

    def _print(self, line: str) -> None:
        if is_main_process():
            print(line, flush=True)


def progress_line(runner: Runner) -> str:
    """Return the numbers of the last window of iterations in one line."""
    window = runner.log_processor.window_size
    scalars = runner.message_hub.log_scalars
    mean = {key[6:]: float(scalars[key].mean(window)) for key in scalars if key.startswith('train/')}
    terms = {name: value for name, value in mean.items() if 'loss' in name}
    if len(terms) > 2:  # more than one term: their sum is not shown
        terms.pop('loss', None)
    parts = [_join(terms, '.4f'), f'lr {scalars["train/lr"].current():.3g}' if 'lr' in mean else '']
    if mean.get('time'):
        parts += [f'{1000 * mean["time"]:.1f} ms/step', f'data wait {mean.get("data_time", 0) / mean["time"]:.0%}']
    eta = runner.message_hub.get_info('eta')
    parts += [memory(), '' if eta is None else f'left {datetime.timedelta(seconds=round(eta))}']
    return '  '.join(part for part in parts if part)


def memory() -> str:
    """Return the peak of CUDA memory, or the resident memory of the process; empty if that is unknown."""
    if torch.cuda.is_available():
        return f'CUDA {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB'
    try:
        with open('/proc/self/status', encoding='utf-8') as file:
            kib = next(int(line.split()[1]) for line in file if line.startswith('VmRSS'))
    except (OSError, StopIteration):
        return ''
    return f'RAM {kib / 2**20:.2f} GiB'


def _join(numbers: dict[str, float], fmt: str) -> str:
    return '  '.join(f'{name} {value:{fmt}}' for name, value in numbers.items())


def _epoch(runner: Runner) -> str:
    return f'{runner.epoch + 1:>{len(str(runner.max_epochs))}}/{runner.max_epochs}'
