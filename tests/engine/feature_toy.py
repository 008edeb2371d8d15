"""Labelled images, a small encoder and a Runner around them."""

from itertools import count
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

import unmix.engine  # noqa: F401
from unmix.registry import DATASETS, METRICS, MODELS

_COUNT = count()


@DATASETS.register_module(force=True)
class ToyImages(Dataset):
    """``size`` images 1x4x4, uint8, of three classes that differ in brightness."""

    def __init__(self, size: int, seed: int = 0, labelled: bool = True, views: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.label = torch.arange(size) % 3
        noise = torch.randint(0, 120, (size, 1, 4, 4), generator=rng)
        self.images = (noise + 60 * self.label[:, None, None, None]).to(torch.uint8)
        self.labelled, self.views = labelled, views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.images[index]
        item = dict(inputs=[image] * self.views if self.views else image, index=index)
        return item | ({'label': int(self.label[index])} if self.labelled else {})


@MODELS.register_module(force=True)
class ToyEncoder(BaseModel):
    """Linear layer, BatchNorm, dropout."""

    def __init__(self, data_preprocessor: dict) -> None:
        super().__init__(data_preprocessor)
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.BatchNorm1d(5), nn.Dropout(0.5))

    def extract_feat(self, x: Tensor, stage: str = 'backbone') -> Tensor:
        return self.backbone(x)

    def forward(self, inputs: Any, index: Any = None, label: Any = None, mode: str = 'tensor') -> Any:
        first, second = (self.backbone(view) for view in inputs)
        return dict(loss_base=(first - second).square().mean())


@METRICS.register_module(force=True)
class Recorder:
    """Keeps what it was called with."""

    def __init__(self) -> None:
        self.name, self.calls, self.rank = 'recorder', [], None

    def __call__(self, bank: Any, test: Any) -> dict[str, float]:
        self.calls.append((bank, test))
        return dict(top1=float(bank.features.sum()), rank=float(get_rank()))


def loader(size: int, batch_size: int = 4, shuffle: bool = False, **dataset: Any) -> dict:
    return dict(
        batch_size=batch_size,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=shuffle),
        collate_fn=dict(type='default_collate'),
        dataset=dict(type='ToyImages', size=size, **dataset),
    )


def feature_runner(work_dir: Any, loop: dict | None = None, **overrides: Any) -> Runner:
    """Two epochs of four steps, the same FeatureLoop as validation and test."""
    loop = dict(type='FeatureLoop', bank_dataloader=loader(23, shuffle=True)) | (loop or {})
    cfg = dict(
        default_scope='unmix',
        model=dict(type='ToyEncoder'),
        data_preprocessor=dict(type='DataPreprocessor', mean=[100.0], std=[50.0]),
        work_dir=str(work_dir),
        train_dataloader=loader(16, views=2),
        train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01)),
        val_dataloader=loader(10, shuffle=True, seed=1),
        val_cfg=loop,
        val_evaluator=[dict(type='KNN', k=5), dict(type='LinearProbe')],
        test_dataloader=loader(10, shuffle=True, seed=1),
        test_cfg=loop,
        test_evaluator=[dict(type='KNN', k=5), dict(type='LinearProbe')],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=2)),
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        randomness=dict(seed=3),
        log_level='WARNING',
        experiment_name=f'toy{next(_COUNT)}',  # MMEngine shares loggers of the same name and second
    )
    return Runner.from_cfg(Config(cfg | overrides))
