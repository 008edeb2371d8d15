"""What the health monitor and the exact state cost of a training step, as a share of it.

A training of the config (default: MoCo + Un-Mix on the digits, whose steps are as short as any) makes steps in turn: by
hand, by our loop, by our loop with the monitor. So all meet the same machine.

* by hand: next batch, ``train_step``, nothing else; the random numbers of augmentations, mixtures and shuffles come
  from one running generator, the order from PyTorch's ``RandomSampler``: nothing could be resumed.
* our loop: ``TrainLoop`` with the default hooks (schedules, logging, progress), and random numbers that are each a
  function of what they are for. Over the one by hand: ``exact_state_overhead``.
* with the monitor: ``TrainStep`` watches for losses and gradients that are not finite; ``HealthHook`` looks at the
  features of every tenth of these steps here, and counts by its interval in the config (50). Over our loop without the
  two: ``monitor_overhead``.

Measured is the process's CPU time of each step, on one thread; the values are medians of the ratios of neighbouring
steps, less 1.

The last lines are ``GOAL <name> <value> 0.03 PASS|FAIL``.
"""

import argparse
import contextlib
import io
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from unmix.config import load_config
from unmix.datasets import collate
from unmix.datasets.transforms import batch as transforms
from unmix.engine.hooks import HealthHook
from unmix.registry import DATASETS, MODELS

GOAL = 0.03
LOOK_EVERY = 10
WARM_UP = 20  # rounds
HAND, LOOP, MONITOR, LOOK = 'by hand', 'our loop', 'with the monitor', 'with a look'


class HandLoop:
    """A training step without anything that a resumed run would need."""

    def __init__(self, cfg: Config) -> None:
        self.model: Any = MODELS.build(cfg.model)
        self.model.init_weights()
        self.wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        dataset, size = DATASETS.build(cfg.train_dataloader.dataset), cfg.train_dataloader.batch_size
        self.loader = DataLoader(dataset, size, shuffle=True, drop_last=True, collate_fn=collate)
        self.batches = iter(self.loader)
        self.rng = np.random.default_rng(0)
        self.model.generator = lambda *purpose: self.rng

    def step(self) -> None:
        """Make one step."""
        with (
            patch.object(transforms, 'uniforms', lambda key, index, num: self.rng.random((len(index), num))),
            patch.object(transforms, 'stream', lambda *purpose: 0),
        ):
            batch = next(self.batches, None)
            if batch is None:
                self.batches = iter(self.loader)
                batch = next(self.batches)
            self.model.train_step(batch, self.wrapper)
            self.model.after_step()


class Turns(Hook):
    """Lets the three take their turns, and times them."""

    priority = 'HIGHEST'

    def __init__(self, hand: HandLoop) -> None:
        self.hand = hand
        self.rows: list[dict[str, float]] = []  # seconds of neighbouring steps
        self.kind = ''

    def before_train_epoch(self, runner: Runner) -> None:
        """Find the hooks, which by now have begun."""
        if not self.rows:
            (self.health,) = (hook for hook in runner.hooks if isinstance(hook, HealthHook))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note the last step, and prepare the next one."""
        if self.kind:
            self.rows[-1][self.kind] = time.process_time() - self.start
        monitored = runner.iter % 2 == 1
        look = monitored and runner.iter // 2 % LOOK_EVERY == 0
        self.kind = LOOK if look else MONITOR if monitored else LOOP
        self.health.interval = int(look)
        runner.train_loop.step.watch = monitored
        if not monitored:
            start = time.process_time()
            self.hand.step()
            self.rows.append({HAND: time.process_time() - start})
        self.start = time.process_time()


def measure(config: str, rounds: int, work_dir: str) -> tuple[list[dict[str, float]], int]:
    """Seconds of each kind of step in each round, and the monitor's interval; rounds that warm up are left out."""
    cfg = load_config(config)
    interval = cfg.default_hooks.health.interval
    steps = len(DATASETS.build(cfg.train_dataloader.dataset)) // cfg.train_dataloader.batch_size
    for key in ('val_cfg', 'val_dataloader', 'val_evaluator', 'test_cfg', 'test_dataloader', 'test_evaluator'):
        cfg.pop(key, None)
    cfg.train_cfg = dict(type='TrainLoop', max_epochs=-(-2 * (rounds + WARM_UP + 1) // steps))
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=-1)
    cfg.default_hooks.progress.interval = 1000
    cfg.custom_hooks = []
    cfg.work_dir, cfg.log_level = work_dir, 'ERROR'
    runner = Runner.from_cfg(cfg)
    turns = Turns(HandLoop(cfg))
    runner.register_hook(turns)
    with contextlib.redirect_stdout(io.StringIO()):
        runner.train()
    return turns.rows[WARM_UP : WARM_UP + rounds], interval


def ratio(rows: list[dict[str, float]], kind: str, over: str) -> float:
    """Median of the ratios of neighbouring steps."""
    return statistics.median(row[kind] / row[over] for row in rows if kind in row)


def main() -> None:
    """Measure, print the table and the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default='unmix::quickstart/unmix-moco_digits.py')
    parser.add_argument('--rounds', type=int, default=1000, help='of one step of each kind')
    parser.add_argument('--json', type=Path, help='write the numbers to this file')
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work_dir:
        rows, interval = measure(args.config, args.rounds, work_dir)
    print(f'{args.config}: ms of CPU time a step, {args.rounds} rounds')
    print(f'{"":18}{"n":>6}{"least":>9}{"median":>9}{"over our loop":>15}')
    table = {}
    for kind in (HAND, LOOP, MONITOR, LOOK):
        turns = [1000 * row[kind] for row in rows if kind in row]
        table[kind] = dict(n=len(turns), least_ms=min(turns), median_ms=statistics.median(turns))
        table[kind]['over_loop'] = ratio(rows, kind, LOOP)
        print(
            f'{kind:18}{len(turns):6}{min(turns):9.3f}{table[kind]["median_ms"]:9.3f}{table[kind]["over_loop"]:15.4f}'
        )
    monitor, look = table[MONITOR]['over_loop'], table[LOOK]['over_loop']
    values = dict(
        exact_state_overhead=ratio(rows, LOOP, HAND) - 1,
        monitor_overhead=monitor + (look - monitor) / interval - 1,
    )
    goals = {name: dict(value=value, goal=GOAL, passed=value < GOAL) for name, value in values.items()}
    if args.json:
        report = dict(config=args.config, rounds=args.rounds, interval=interval, goals=goals, rows=table)
        report |= dict(torch=torch.__version__, machine=platform.platform())
        args.json.write_text(json.dumps(report, indent=2))
    for name, goal in goals.items():
        print(f'GOAL {name} {goal["value"]:.4f} {GOAL} {"PASS" if goal["passed"] else "FAIL"}')


if __name__ == '__main__':
    main()
