"""The bases of data sets and the views of recipes, built as a Runner builds them."""

from itertools import accumulate, pairwise
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from unmix.config import config_files, config_root
from unmix.config.check import check_config
from unmix.datasets import SampleKey
from unmix.registry import TRANSFORMS

BASES = sorted((config_root() / '_base_' / 'datasets').glob('*.py'))


def training_views() -> dict[str, Config]:
    """Return a config for each way in which a recipe makes views of images, by name."""
    found = {}
    for path in config_files():
        cfg = Config.fromfile(path)
        if cfg.train_dataloader is not None and path.parent.name not in ('benchmarks', 'image-mixture'):
            found.setdefault(repr(cfg.train_dataloader.dataset.pipeline), (path.stem, cfg))
    return dict(found.values())


@pytest.mark.parametrize('path', BASES, ids=lambda path: path.stem)
def test_base_is_valid_and_of_no_method(path: Path) -> None:
    cfg = Config.fromfile(path)
    check_config(cfg._cfg_dict)
    train = cfg.train_dataloader
    assert train.drop_last
    assert train.sampler.type == 'EpochSampler'
    assert train.num_workers == 0 or train.persistent_workers
    assert cfg.val_cfg.bank_dataloader.dataset.split == 'train'
    assert train.dataset.split in ('train', 'train+unlabeled')
    assert cfg.val_dataloader.dataset.split in ('test', 'val')
    assert 'pipeline' not in train.dataset
    assert 'augmentation' not in cfg


@pytest.mark.slow
def test_views_of_a_crop_have_one_size() -> None:
    found = training_views()
    assert len(found) > 20
    for name, cfg in found.items():
        settings = cfg.train_dataloader.dataset.pipeline
        pipeline = TRANSFORMS.build(settings)
        channels = 1 if name.endswith(('digits', 'mnist')) else 3
        images = [torch.randint(0, 256, (channels, *size), dtype=torch.uint8) for size in ((300, 280), (260, 300))]
        first, second = ([view.shape for view in pipeline(image, SampleKey(0))] for image in images)
        crops = settings.get('crops', [settings])
        assert len(first) == len(second) == sum(crop.num_views for crop in crops), name
        if settings.type != 'BatchMultiView':  # which leaves the size to the data set
            assert first == second, name
            assert len(set(first)) <= len(crops), name
            bounds = [0, *accumulate(crop.num_views for crop in crops)]
            assert all(len(set(first[start:end])) == 1 for start, end in pairwise(bounds)), name


def test_digits_as_the_runner_builds_them() -> None:
    cfg = Config.fromfile(config_root() / 'quickstart' / 'moco_digits.py')
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
