"""What the Runner's loop costs per step, over a bare loop with the same data, preprocessing, model and optimiser.

A linear layer with four loss terms is trained by MMEngine's own loop and hooks and by ours, logging every 50
iterations. After every 50 iterations a bare loop takes its turn for 50, so that both meet the same machine. Measured is
the process's CPU time of each 50. Other processes on the machine can only add to it, so the value is the least of ours
less the least of the bare loop's; the medians are printed too.

The last line is ``GOAL loop_overhead_ms <value> 0.25 PASS|FAIL``.
"""

import argparse
import contextlib
import io
import json
import platform
import statistics
import tempfile
import time
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import unmix.engine  # noqa: F401
from unmix.models import BaseAlgorithm

GOAL = 0.25
BLOCK = 50  # iterations between two log lines
TERMS = ('loss_base', 'loss_unmix', 'loss_c', 'loss_d')


class Model(BaseModel):
    """Four loss terms of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, inputs: Tensor, mode: str = 'loss') -> dict[str, Tensor]:
        """Return the terms."""
        out = self.layer(inputs)
        return {name: (out - i).square().mean() for i, name in enumerate(TERMS)}


class UnmixModel(Model):
    """The same, with the loss parsing of our algorithms."""

    parse_losses = BaseAlgorithm.parse_losses


def build_loader(iters: int) -> DataLoader:
    """One epoch of ``iters`` batches."""
    return DataLoader(TensorDataset(torch.randn(iters * 4, 16)), batch_size=4, collate_fn=_collate)


def _collate(samples: list[tuple[Tensor]]) -> dict[str, Tensor]:
    return dict(inputs=torch.stack([sample[0] for sample in samples]))


class BareLoop(Hook):
    """After every block of the Runner's loop, run as many iterations of a loop written by hand; time both."""

    priority = 'HIGHEST'

    def __init__(self, blocks: int) -> None:
        self.model = Model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.batches = iter(build_loader(BLOCK * blocks))
        self.bare: list[float] = []
        self.runner: list[float] = []

    def before_train_epoch(self, runner: Runner) -> None:
        """Start the first block."""
        self.start = time.process_time()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Take the turn."""
        if batch_idx % BLOCK or not batch_idx:
            return
        self.runner.append((time.process_time() - self.start) / BLOCK)
        start = time.process_time()
        for _ in range(BLOCK):
            batch = self.model.data_preprocessor(next(self.batches), True)
            loss = reduce(add, self.model(**batch, mode='loss').values())
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.start = time.process_time()
        self.bare.append((self.start - start) / BLOCK)


def measure(ours: bool, blocks: int, work_dir: str) -> tuple[list[float], list[float]]:
    """Seconds a step in each block of a Runner's loop, and in each of the bare loop."""
    hooks: dict[str, Any] = dict(logger=dict(type='LoggerHook', interval=BLOCK))
    if ours:
        hooks |= dict(
            runtime_info=dict(type='unmix.LazyRuntimeInfoHook'),
            timer=dict(type='unmix.LazyTimerHook'),
            progress=dict(type='unmix.ProgressHook', interval=BLOCK, by_epoch=False),
        )
    runner = Runner(
        UnmixModel() if ours else Model(),
        work_dir,
        train_dataloader=build_loader(BLOCK * blocks),
        train_cfg=dict(type='unmix.TrainLoop' if ours else 'EpochBasedTrainLoop', max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        param_scheduler=dict(type='unmix.CosineLR', by_epoch=False),
        default_hooks=hooks,
        custom_hooks=[dict(type='unmix.HealthHook')] if ours else [],
        experiment_name=f'loop_{ours}',
        log_level='ERROR',
    )
    clock = BareLoop(blocks)
    runner.register_hook(clock)
    with contextlib.redirect_stdout(io.StringIO()):
        runner.train()
    return clock.runner[1:], clock.bare[1:]  # the first block warms up


def main() -> None:
    """Measure, print the table and the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--blocks', type=int, default=100, help=f'of {BLOCK} iterations')
    parser.add_argument('--json', type=Path, help='write the numbers to this file')
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as work_dir:
        for name, ours in (('MMEngine', False), ('unmix', True)):
            loop, bare = measure(ours, args.blocks, work_dir)
            rows[name] = {}
            for kind, statistic in (('least', min), ('median', statistics.median)):
                rows[name][f'bare_{kind}_ms'] = 1000 * statistic(bare)
                rows[name][f'{kind}_ms'] = 1000 * statistic(loop)
    print(f'ms of CPU time a step, {args.blocks} interleaved blocks of {BLOCK} iterations')
    print(f'{"":10}{"bare loop":>20}{"Runner":>20}{"difference":>20}{"ratio":>20}')
    print(f'{"":10}' + f'{"least":>11}{"median":>9}' * 4)
    for name, row in rows.items():
        cells = [row[f'{prefix}{kind}_ms'] for prefix in ('bare_', '') for kind in ('least', 'median')]
        cells += [cells[2] - cells[0], cells[3] - cells[1], cells[2] / cells[0], cells[3] / cells[1]]
        print(f'{name:10}' + ''.join(f'{cell:{width}.3f}' for cell, width in zip(cells, (11, 9) * 4, strict=True)))
    value = rows['unmix']['least_ms'] - rows['unmix']['bare_least_ms']
    passed = value <= GOAL
    if args.json:
        report = dict(loop_overhead_ms=value, goal=GOAL, passed=passed, blocks=args.blocks, rows=rows)
        report |= dict(torch=torch.__version__, machine=platform.platform())
        args.json.write_text(json.dumps(report, indent=2))
    print(f'GOAL loop_overhead_ms {value:.3f} {GOAL} {"PASS" if passed else "FAIL"}')


if __name__ == '__main__':
    main()
