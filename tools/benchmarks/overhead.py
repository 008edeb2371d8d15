"""The cost of the health monitor and of the exact state as a share of a training step.

A training of the config (default: MoCo + Un-Mix on the digits, whose steps are among the shortest) makes steps in turn:
by hand, by our loop, by our loop with the monitor.

* by hand: next batch, ``train_step``, nothing else. The random numbers of augmentations, mixtures and shuffles come
  from one running generator, the order from PyTorch's ``RandomSampler``, so this loop cannot be resumed.
* our loop: ``TrainLoop`` with the default hooks (schedules, logging, progress). Each random number is a function of its
  purpose. Its time over that of the loop by hand is ``exact_state_overhead``.
* with the monitor: ``TrainStep`` watches for losses and gradients that are not finite. ``HealthHook`` looks at the
  features of every tenth of these steps here; its share is scaled to the interval of the config (50). The time over
  that of our loop without the two is ``monitor_overhead``.

Measured is the process's CPU time of each step, on one thread, or with ``--device`` the accelerator's. The values are
medians of the ratios of neighbouring steps, minus 1. The last lines are ``GOAL <name> <value> 0.03 PASS|FAIL``.
"""

import contextlib
import io
import os
import statistics
import tempfile
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from measure import Goal, Stopwatch, argument_parser, print_goals, visible
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
    """A training loop without anything that a resumed run would need."""

    def __init__(self, cfg: Config, device: str) -> None:
        self.model: Any = MODELS.build(cfg.model)
        self.model.init_weights()
        self.model.to(device)
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
    """Gives the three their turns, and times them.

    Attributes:
        rows: Seconds of neighbouring steps by kind, in each round.
    """

    priority = 'HIGHEST'

    def __init__(self, hand: HandLoop, device: str) -> None:
        self.hand, self.watch = hand, Stopwatch(device)
        self.rows: list[dict[str, float]] = []
        self.kind = ''

    def before_train_epoch(self, runner: Runner) -> None:
        """Find the monitor."""
        if not self.rows:
            (self.health,) = (hook for hook in runner.hooks if isinstance(hook, HealthHook))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Record the last step, and prepare the next one."""
        if self.kind:
            self.rows[-1][self.kind] = next(iter(self.watch.stop().values()))
        monitored = runner.iter % 2 == 1
        look = monitored and runner.iter // 2 % LOOK_EVERY == 0
        self.kind = LOOK if look else MONITOR if monitored else LOOP
        self.health.interval = int(look)
        runner.train_loop.step.watch = monitored
        if not monitored:
            self.watch.start()
            self.hand.step()
            self.rows.append({HAND: next(iter(self.watch.stop().values()))})
        self.watch.start()


def measure(config: str, rounds: int, work_dir: str, device: str) -> tuple[list[dict[str, float]], int]:
    """Return the seconds of each kind of step in each round after the warm-up, and the monitor's interval."""
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
    turns = Turns(HandLoop(cfg, device), device)
    runner.register_hook(turns)
    with contextlib.redirect_stdout(io.StringIO()):
        runner.train()
    return turns.rows[WARM_UP : WARM_UP + rounds], interval


def ratio(rows: list[dict[str, float]], kind: str, over: str) -> float:
    """Median of the ratios of neighbouring steps."""
    return statistics.median(row[kind] / row[over] for row in rows if kind in row)


def main() -> None:
    """Measure, print the table and the goals."""
    parser = argument_parser(__doc__, rounds=1000)
    parser.add_argument('--config', default='unmix::quickstart/unmix-moco_digits.py')
    args = parser.parse_args()
    os.environ |= visible(args.device)  # before the Runner looks for a device
    torch.set_num_threads(args.threads[0])
    with tempfile.TemporaryDirectory() as work_dir:
        rows, interval = measure(args.config, args.rounds, work_dir, args.device)
    print(f'{args.config}: ms a step, {args.rounds} rounds')
    print(f'{"":18}{"n":>6}{"least":>9}{"median":>9}{"over our loop":>15}')
    for kind in (HAND, LOOP, MONITOR, LOOK):
        turns = [1000 * row[kind] for row in rows if kind in row]
        over = ratio(rows, kind, LOOP)
        print(f'{kind:18}{len(turns):6}{min(turns):9.3f}{statistics.median(turns):9.3f}{over:15.4f}')
    monitor, look = ratio(rows, MONITOR, LOOP), ratio(rows, LOOK, LOOP)
    goals = [
        Goal('exact_state_overhead', ratio(rows, LOOP, HAND) - 1, GOAL, at_most=True),
        Goal('monitor_overhead', monitor + (look - monitor) / interval - 1, GOAL, at_most=True),
    ]
    print_goals(goals, args.json, seconds=rows, interval=interval, arguments=vars(args))


if __name__ == '__main__':
    main()
