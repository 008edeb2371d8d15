"""The dataset bases, built as a Runner builds them."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from unmix.config import config_root
from unmix.config.check import check_config
from unmix.datasets import SampleKey
from unmix.registry import TRANSFORMS

BASES = sorted((config_root() / '_base_' / 'datasets').glob('*.py'))


@pytest.mark.parametrize('path', BASES, ids=lambda path: path.stem)
def test_base_is_valid_and_its_views_have_one_size(path: Path) -> None:
    cfg = Config.fromfile(path)
    check_config(cfg._cfg_dict)
    train = cfg.train_dataloader
    assert train.drop_last
    assert train.sampler.type == 'EpochSampler'
    assert train.num_workers == 0 or train.persistent_workers
    assert cfg.val_cfg.bank_dataloader.dataset.split == 'train'
    assert train.dataset.split in ('train', 'train+unlabeled')
    assert cfg.val_dataloader.dataset.split in ('test', 'val')
    pipeline = TRANSFORMS.build(train.dataset.pipeline)
    channels = len(cfg.data_preprocessor.mean)
    images = [torch.randint(0, 256, (channels, *size), dtype=torch.uint8) for size in ((300, 280), (260, 300))]
    views = [view for image in images for view in pipeline(image, SampleKey(0))]
    if train.dataset.pipeline.type == 'MultiView':
        assert len({view.shape for view in views}) == 1
    assert len(views) == 4


def test_digits_as_the_runner_builds_them() -> None:
    cfg = Config.fromfile(config_root() / '_base_' / 'datasets' / 'digits.py')
    with DefaultScope.overwrite_default_scope('unmix'):
        train, again, other = (Runner.build_dataloader(cfg.train_dataloader, seed=seed) for seed in (3, 3, 4))
        val = Runner.build_dataloader(cfg.val_dataloader, seed=3)
    batches = list(train)
    assert len(batches) == len(train) == 1257 // 128
    assert [view.shape for view in batches[0]['inputs']] == [(128, 1, 16, 16)] * 2
    assert torch.equal(train.dataset.labels[batches[0]['index']], batches[0]['label'])
    assert all(map(torch.equal, next(iter(again))['inputs'], batches[0]['inputs']))
    assert not torch.equal(next(iter(other))['index'], batches[0]['index'])
    mean, std = train.dataset.images.mean().item(), train.dataset.images.std(correction=0).item()
    assert cfg.data_preprocessor.mean == [pytest.approx(mean, abs=0.01)]
    assert cfg.data_preprocessor.std == [pytest.approx(std, abs=0.01)]
    assert [batch['index'].tolist() for batch in val] == [list(range(540))]
