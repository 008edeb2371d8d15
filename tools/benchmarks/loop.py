"""What the Runner's loop costs per step, over a bare loop with the same data, preprocessing, model and optimiser.

A linear layer with four loss terms is trained by MMEngine's own loop and hooks and by ours, logging every 50
iterations. After every 50 iterations a bare loop takes its turn for 50, so that both meet the same machine. Measured is
the process's CPU time of each 50. Other processes on the machine can only add to it, so the value is the least of ours
less the least of the bare loop's; the medians are printed too.

The same is measured from iteration 500,000 on: epochs and iterations are counted from there, and each scalar has a
history of that length, as a resumed run finds it. ``loop_500k`` is the overhead there over that at the start, both
medians over neighbouring blocks.

The last lines are ``GOAL <name> <value> <target> PASS|FAIL``.
"""

import contextlib
import io
import statistics
import tempfile
import time
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from interleave import Goal, argument_parser, print_goals
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import unmix.engine  # noqa: F401
from unmix.models import BaseAlgorithm

TARGETS = dict(loop_overhead_ms=0.25, loop_500k=1.1)
LATE = 500_000
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


class Late(Hook):
    """Gives the scalars of a run the histories that they have after ``LATE`` iterations."""

    priority = 'HIGHEST'

    def before_train(self, runner: Runner) -> None:
        """Fill them in; :class:`LazyRuntimeInfoHook` takes over what it finds, as after resuming."""
        values = np.linspace(2.0, 1.0, LATE)
        for name in ('loss', *TERMS, 'lr', 'time', 'data_time'):
            runner.message_hub.log_scalars[f'train/{name}'] = HistoryBuffer(values, np.ones(LATE))


def measure(ours: bool, blocks: int, work_dir: str, late: bool = False) -> tuple[list[float], list[float]]:
    """Seconds a step in each block of a Runner's loop, and in each of the bare loop; at the start or late."""
    epochs = LATE // (BLOCK * blocks) if late else 0
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
        train_cfg=dict(type='unmix.TrainLoop' if ours else 'EpochBasedTrainLoop', max_epochs=epochs + 1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        param_scheduler=dict(type='unmix.CosineLR', by_epoch=False),
        default_hooks=hooks,
        custom_hooks=[dict(type='unmix.HealthHook')] if ours else [],
        experiment_name=f'loop_{ours}_{late}_{time.monotonic_ns()}',
        log_level='ERROR',
    )
    clock = BareLoop(blocks)
    runner.register_hook(clock)
    if late:
        runner.register_hook(Late())
        loop: Any = runner.train_loop
        loop._epoch, loop._iter = epochs, epochs * BLOCK * blocks
    with contextlib.redirect_stdout(io.StringIO()):
        runner.train()
    return clock.runner[1:], clock.bare[1:]  # the first block warms up


def main() -> None:
    """Measure, print the table and the goals."""
    parser = argument_parser(__doc__, rounds=3)
    parser.add_argument('--blocks', type=int, default=40, help=f'of {BLOCK} iterations, in each round')
    args = parser.parse_args()
    torch.set_num_threads(1)
    seconds: dict[str, tuple[list[float], list[float]]] = {}
    with tempfile.TemporaryDirectory() as work_dir:
        for _ in range(args.rounds):
            for ours in (False, True):
                for late in (False, True):
                    blocks = args.blocks if ours or not late else max(args.blocks // 10, 4)  # MMEngine is slow there
                    name = ('unmix' if ours else 'MMEngine') + (f', {LATE:,}' if late else '')
                    pair = seconds.setdefault(name, ([], []))
                    for kind, values in zip(pair, measure(ours, blocks, work_dir, late), strict=True):
                        kind += values
    print(f'ms of CPU time a step, {args.rounds} rounds of {args.blocks} interleaved blocks of {BLOCK} iterations')
    print(f'{"":20}{"bare loop":>20}{"Runner":>20}{"difference":>20}{"ratio":>20}')
    print(f'{"":20}' + f'{"least":>11}{"median":>9}' * 4)
    overhead, typical = {}, {}
    for name, (loop, bare) in seconds.items():
        cells = [1000 * statistic(values) for values in (bare, loop) for statistic in (min, statistics.median)]
        cells += [cells[2] - cells[0], cells[3] - cells[1], cells[2] / cells[0], cells[3] / cells[1]]
        overhead[name] = cells[4]
        typical[name] = statistics.median(a - b for a, b in zip(loop, bare, strict=False))
        print(f'{name:20}' + ''.join(f'{cell:{width}.3f}' for cell, width in zip(cells, (11, 9) * 4, strict=True)))
    values = dict(loop_overhead_ms=overhead['unmix'], loop_500k=typical[f'unmix, {LATE:,}'] / typical['unmix'])
    goals = [Goal(name, value, TARGETS[name], at_most=True) for name, value in values.items()]
    print_goals(goals, args.json, seconds=seconds, arguments=vars(args))


if __name__ == '__main__':
    main()
