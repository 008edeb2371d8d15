"""Every number of the recipes with image mixtures in the data set against the defaults of the released script."""

import pytest
from mmengine.config import Config

from unmix.config import config_root, load_config

NAME = 'image-mixture/{}_resnet50_4xb32-steplr-600e_in100'
ATTEMPTS = dict(num_mix=2, prob=0.1)
GLOBAL, REGION = dict(type='Mixup', alpha=1.0), dict(type='CutMix', alpha=1.0)
# Mixtures from the outermost to the innermost one.
MIXTURES = {'moco': [], 'moco-global': [GLOBAL], 'moco-region': [REGION], 'moco-im': [REGION, GLOBAL]}


def load(name: str) -> Config:
    return load_config(f'unmix::{NAME.format(name)}.py')


def test_all_recipes_are_checked() -> None:
    files = {path.stem for path in (config_root() / 'image-mixture').glob('*.py')}
    assert files == {NAME.split('/')[1].format(prefix + name) for name in MIXTURES for prefix in ('', 'unmix-')}


def test_baseline() -> None:
    """MoCo of the CMC repository, 600 epochs in place of 240, crops from a tenth of the image in place of a fifth."""
    cfg = load('moco')
    model = cfg.model.to_dict()
    model.pop('data_preprocessor')
    assert model == dict(
        type='MoCo',
        momentum=0.999,
        backbone=dict(type='ResNet', depth=50),
        neck=dict(type='LinearNeck', in_dim=2048, out_dim=128),
        head=dict(type='InfoNCEHead', dim=128, queue_size=16384, temperature=0.07),
    )
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert (pipeline.type, pipeline.num_views) == ('MultiView', 2)
    assert pipeline.transforms == [
        dict(type='RandomResizedCrop', size=224, scale=(0.1, 1.0)),
        dict(type='RandomGrayscale', p=0.2),
        dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4),
        dict(type='RandomHorizontalFlip'),
    ]
    assert (cfg.train_dataloader.batch_size, cfg.auto_scale_lr.base_batch_size) == (32, 128)
    assert cfg.train_dataloader.drop_last is False
    optimizer = dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4)
    assert cfg.optim_wrapper.to_dict() == dict(type='OptimWrapper', optimizer=optimizer)
    (schedule,) = cfg.param_scheduler
    assert schedule == dict(type='MultiStepLR', milestones=[360, 480, 540], gamma=0.1)
    assert cfg.train_cfg.max_epochs == 600


@pytest.mark.slow
@pytest.mark.parametrize('name', MIXTURES)
def test_mixtures_are_the_only_difference(name: str) -> None:
    cfg, baseline = load(name), load('moco')
    dataset = cfg.train_dataloader.dataset
    for mixing in MIXTURES[name]:
        wrapper = dataset.to_dict()
        inner = wrapper.pop('dataset')
        assert wrapper == dict(type='MixtureDataset', mixing=mixing, **ATTEMPTS)
        dataset = dataset.dataset
        assert dataset.to_dict() == inner
    cfg.train_dataloader.dataset = dataset
    assert cfg.to_dict() == baseline.to_dict()


@pytest.mark.slow
@pytest.mark.parametrize('name', MIXTURES)
def test_twin_differs_in_unmix_only(name: str) -> None:
    twin = load(f'unmix-{name}')
    assert twin.model.pop('unmix').to_dict() == dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5))
    assert twin.to_dict() == load(name).to_dict()
