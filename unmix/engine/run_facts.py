"""What a run notes about itself for its report: ``report.json`` in the work directory."""

import datetime
import json
import os
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.runner import Runner

from unmix.config.origin import Place, origins
from unmix.engine.hooks.health_hook import ALERTS
from unmix.engine.protocol_card import commit, versions
from unmix.utils.clock import is_trained
from unmix.utils.dist import unwrap
from unmix.utils.files import atomic_path
from unmix.utils.run_files import FACTS, RunFiles, data_of, is_run


class RunFacts:
    """Facts of a run, which grow with it; those of earlier starts of the same run are kept.

    Args:
        runner: The Runner.
        name: Of the run.
        trains: Whether it trains; without that the facts of the training in the work directory are kept.
    """

    def __init__(self, runner: Runner, name: str, trains: bool) -> None:
        self._path = Path(runner.work_dir, FACTS)
        self._since, self._cpu_since = time.monotonic(), time.process_time()
        files = RunFiles(runner.work_dir) if is_run(Path(runner.work_dir)) else None
        self.content: dict[str, Any] = dict(files.facts) if files else {}
        run = files.starts[0][0] if files and files.starts else None
        start = dict(
            time=datetime.datetime.now().strftime('%Y-%m-%d %H:%M:%S'),
            command=command(),
            directory=os.getcwd(),
            versions=versions() | dict(python=platform.python_version()),
            commit=commit(),
            machine=machine(),
            seconds=0.0,
        )
        if trains:
            loader, model = runner.train_dataloader, unwrap(runner.model)
            batch = getattr(loader.batch_sampler, 'batch_size', loader.batch_size)
            self.content |= dict(
                run=run,
                name=name,
                seed=runner.seed,
                data=data_of(runner.cfg),
                images=_length(loader),
                batch=None if batch is None else batch * get_world_size(),
                max_epochs=runner.max_epochs,
                parameters=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
                config=config_rows(runner.cfg),
            )
            self._start: dict[str, Any] | None = start
            self.content['starts'] = [*self.content.get('starts', []), start]
        elif not self.content:
            self.content = dict(run=run, name=name, data=data_of(runner.cfg), config=config_rows(runner.cfg))
            self.content['starts'], self._start = [start], start
        else:
            self._start = None  # an evaluation of a run that was trained before

    @property
    def seconds(self) -> float:
        """Seconds since these facts were begun."""
        return time.monotonic() - self._since

    @property
    def cpu_seconds(self) -> float:
        """Seconds that the processor has worked for this process since then; other processes do not lengthen them."""
        return time.process_time() - self._cpu_since

    def write(self, runner: Runner, **more: Any) -> None:
        """Write the facts, with what has changed since; ``more`` is added.

        Raises:
            OSError: If they cannot be written.
        """
        if self._start is not None:
            self._start['seconds'] = round(self.seconds, 2)
        if is_trained(runner):
            self.content |= dict(epochs=runner.epoch, alerts=runner.message_hub.get_info(ALERTS, []))
        self.content |= more
        with atomic_path(self._path) as temporary:
            temporary.write_text(json.dumps(self.content, default=str), encoding='utf-8')


def command() -> str:
    """Return the command of this process; that of a rank of several has their number."""
    program = Path(sys.argv[0])
    words = [program.name if program.name == 'unmix' else f'python {shlex.quote(sys.argv[0])}']
    if program.name == '__main__.py':
        words = [f'python -m {shlex.quote(program.parent.name)}']
    several = f'  # {get_world_size()} processes' if get_world_size() > 1 else ''
    return ' '.join([*words, *map(shlex.quote, sys.argv[1:])]) + several


def machine() -> str:
    """Return operating system, processor, cores and accelerators of this machine, and the number of processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    parts = [platform.platform(terse=True), f'{_processor()}, {cores} cores, threads: {torch.get_num_threads()}']
    if torch.cuda.is_available():
        parts.append(f'{torch.cuda.device_count()} x {torch.cuda.get_device_name()}')
    if get_world_size() > 1:
        parts.append(f'{get_world_size()} processes')
    return '; '.join(parts)


def config_rows(cfg: Any) -> list[list[str]]:
    """Return key, value and origin of each value of a config; places that were overridden follow the first."""
    return [[key, repr(value), _where(places)] for key, (value, places) in origins(cfg).items()]


def _where(places: Any) -> str:
    first, *others = (f'{place.file.name}:{place.line}' if isinstance(place, Place) else place for place in places)
    return first + (f', instead of {", ".join(others)}' if others else '')


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def _length(loader: Any) -> int | None:
    try:
        return len(loader.dataset)
    except TypeError:  # a stream
        return None
