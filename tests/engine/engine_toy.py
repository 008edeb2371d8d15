"""A model, data and a Runner that train in milliseconds, for the tests of this folder and their subprocesses."""

import itertools
import os
import signal
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, LOOPS, MODELS
from mmengine.runner import BaseLoop
from torch import Tensor, nn
from torch.utils.data import Dataset

import unmix.engine  # noqa: F401
from unmix.engine.runner import Runner

RUNTIME = Path(__file__).parents[2] / 'configs' / '_base_' / 'default_runtime.py'
_names = itertools.count()


@DATASETS.register_module(force=True)
class ToyData(Dataset):
    """Vectors that depend on their index alone; it notes which were loaded."""

    metainfo: dict = {}

    def __init__(self, size: int = 24, dim: int = 6) -> None:
        self.loaded: list[int] = []
        self.data = torch.randn(size, dim, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Any) -> dict[str, Any]:
        index = getattr(key, 'index', key)
        self.loaded.append(index)
        return dict(inputs=self.data[index], index=index)


@MODELS.register_module(force=True)
class ToyModel(BaseModel):
    """A linear layer, perhaps with dropout, with two loss terms; it notes the images and the dtype it saw."""

    def __init__(self, dim: int = 6, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.layer = nn.Linear(dim, 3)
        nn.init.constant_(self.layer.weight, 0.5)
        nn.init.zeros_(self.layer.bias)
        self.seen: list[list[int]] = []

    def forward(self, inputs: Tensor, index: Tensor, mode: str = 'tensor') -> dict[str, Tensor] | Tensor:
        out = self.layer(self.dropout(inputs))
        if mode != 'loss':
            return out
        self.seen.append(index.tolist())
        self.dtype = out.dtype
        return dict(loss_base=(out - 1).square().mean(), loss_unmix=(out - 2).abs().mean(), extra=out.mean())


@LOOPS.register_module(force=True)
class CountLoop(BaseLoop):
    """A validation that only notes after which epoch it ran."""

    def __init__(self, runner: Runner, dataloader: Any, evaluator: Any) -> None:
        super().__init__(runner, dataloader)
        self.epochs: list[int] = []

    def run(self) -> None:
        self.epochs.append(self.runner.epoch)


@LOOPS.register_module(force=True)
class SignalLoop(CountLoop):
    """A validation during which the process gets SIGTERM."""

    def run(self) -> None:
        signal.raise_signal(signal.SIGTERM)
        super().run()


@LOOPS.register_module(force=True)
class DyingLoop(CountLoop):
    """A validation one of whose data workers gets the signal too."""

    def run(self) -> None:
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError('DataLoader worker is killed')


class SignalHook(Hook):
    """Sends this process a signal during a given iteration; it notes the numbers of the batches."""

    def __init__(self, iteration: int = -1, number: int = signal.SIGINT) -> None:
        self.iteration, self.number = iteration, number
        self.batches: list[int] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.batches.append(batch_idx)
        if runner.iter == self.iteration:
            os.kill(os.getpid(), self.number)


def toy_runner(work_dir: Any, signal_at: int = -1, **changes: Any) -> Runner:
    """Build a Runner on the default runtime: 3 epochs of 6 batches of 4, momentum SGD, two schedules.

    Args:
        work_dir: Where to.
        signal_at: Iteration in which the process gets SIGINT.
        **changes: Config keys, with ``__`` for a dot.
    """
    cfg = Config.fromfile(RUNTIME)
    data = dict(type='mmengine.ToyData')
    cfg.merge_from_dict(
        dict(
            work_dir=str(work_dir),
            model=dict(type='mmengine.ToyModel'),
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                drop_last=True,
                dataset=data,
                sampler=dict(type='EpochSampler'),
                collate_fn=dict(type='default_collate'),
            ),
            train_cfg=dict(type='TrainLoop', max_epochs=3),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
            param_scheduler=[dict(type='CosineLR', by_epoch=False), dict(type='MultiStepLR', milestones=[1])],
            custom_hooks=[],
            experiment_name=f'toy_{next(_names)}',
        )
    )
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in changes.items()})
    runner = Runner.from_cfg(cfg)
    runner.signal_hook = SignalHook(signal_at)
    runner.register_hook(runner.signal_hook)
    return runner
