"""Every number of the SimCLR, BYOL and W-MSE recipes of the W-MSE repository against its commands and defaults."""

from typing import Any, NamedTuple

import pytest
from mmengine.config import Config

from unmix.config import config_root, load_config


class Data(NamedTuple):
    """What the repository says of a data set."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    splits: tuple[str, str, str]  # training, bank, test
    stem: str
    epochs: int
    lr: float
    dim: int
    sub_batch: int
    draws: int  # with two views


DATA = {
    'cifar10': Data(32, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), ('train', 'train', 'test'),
                    'cifar', 1000, 3e-3, 64, 128, 1),
    'cifar100': Data(32, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), ('train', 'train', 'test'),
                     'cifar', 1000, 3e-3, 64, 128, 1),
    'stl10': Data(64, (0.43, 0.42, 0.39), (0.27, 0.26, 0.27), ('train+unlabeled', 'train', 'test'),
                  'cifar-pool', 2000, 2e-3, 128, 256, 4),
    'tiny-imagenet': Data(64, (0.480, 0.448, 0.398), (0.277, 0.269, 0.282), ('train', 'train', 'test'),
                          'cifar-pool', 1000, 2e-3, 128, 256, 4),
    'in100': Data(224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), ('train', 'train', 'val'),
                  'imagenet', 240, 2e-3, 128, 256, 1),
}  # fmt: skip
METHODS = {'simclr': 2, 'byol': 2, 'wmse2': 2, 'wmse4': 4}  # and their views
RECIPES = [(method, data) for method in METHODS for data in DATA if data != 'in100' or 'wmse' in method]


def name_of(method: str, data: str) -> str:
    batch = 512 if METHODS[method] == 2 else 256
    return f'{method.rstrip("24")}/{method}_resnet18_1xb{batch}-steplr-{DATA[data].epochs}e_{data}'


def load(name: str) -> Config:
    return load_config(f'unmix::{name}.py')


def perceptron(in_dim: int, dim: int, **arguments: Any) -> dict:
    layers = dict(in_dim=in_dim, hidden_dim=1024, out_dim=dim, norm=True, hidden_bias=True)
    return dict(type='MLPNeck', **layers, **arguments)


def expected_model(method: str, data: Data) -> dict:
    neck, joint = perceptron(512, data.dim), dict(joint_neck=True)
    if method == 'simclr':
        neck |= dict(last_norm=True, last_affine=True)
        return dict(type='SimCLR', neck=neck, head=dict(type='NTXentHead', temperature=0.5), **joint)
    if method == 'byol':
        momentum = dict(momentum=0.99, momentum_by_epoch=True, predictor=perceptron(data.dim, data.dim))
        return dict(type='BYOL', neck=neck, head=dict(type='CosineHead'), **momentum)
    draws = data.draws if method == 'wmse2' else 1
    head = dict(type='WMSEHead', sub_batch=data.sub_batch) | (dict(draws=draws) if draws > 1 else {})
    return dict(type='WMSE', neck=neck, head=head, **joint) | (dict(num_views=4) if method == 'wmse4' else {})


def augmentation(size: int) -> list[dict]:
    large = size == 224
    strength = dict(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
    weak = dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    jitter = dict(type='ColorJitter', **(strength if large else weak))
    crop = dict(type='RandomResizedCrop', size=size, scale=[0.08 if large else 0.2, 1.0], interpolation='bicubic')
    blur = dict(type='RandomApply', p=0.5, transforms=[dict(type='PILGaussianBlur', sigma=[0.1, 2.0])])
    return [
        dict(type='RandomApply', p=0.8, transforms=[jitter]),
        dict(type='RandomGrayscale', p=0.2 if large else 0.1),
        crop,
        dict(type='RandomHorizontalFlip'),
        *([blur] if large else []),
    ]


def plain(value: Any) -> Any:
    """Lists for tuples, so that configs compare by content."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize(('method', 'data'), RECIPES)
def test_published_numbers(method: str, data: str) -> None:
    cfg, facts, views = load(name_of(method, data)), DATA[data], METHODS[method]
    model = cfg.model.to_dict()
    normalisation = model.pop('data_preprocessor')
    backbone = dict(dict(stem='imagenet'), **model.pop('backbone'))
    assert backbone == dict(type='ResNet', depth=18, stem=facts.stem)
    assert model == expected_model(method, facts)
    assert normalisation['mean'] == pytest.approx([255 * value for value in facts.mean])
    assert normalisation['std'] == pytest.approx([255 * value for value in facts.std])

    loader = cfg.train_dataloader
    assert loader.drop_last is True
    assert loader.batch_size == 1024 // views == cfg.auto_scale_lr.base_batch_size
    pipeline = dict(type='MultiView', num_views=views, transforms=augmentation(facts.size))
    assert plain(loader.dataset.pipeline.to_dict()) == pipeline
    loaders = (loader, cfg.val_cfg.bank_dataloader, cfg.val_dataloader)
    assert tuple(loader.dataset.split for loader in loaders) == facts.splits

    optimizer = dict(type='Adam', lr=facts.lr, weight_decay=1e-6)
    assert cfg.optim_wrapper.to_dict() == dict(type='OptimWrapper', optimizer=optimizer)
    (schedule,) = cfg.param_scheduler
    milestones = [facts.epochs - 50, facts.epochs - 25]
    assert schedule == dict(type='WarmupStepLR', convert_to_iter_based=True, milestones=milestones)
    assert cfg.train_cfg.max_epochs == facts.epochs
    assert (cfg.train_cfg.val_interval, cfg.train_cfg.dynamic_intervals) == (20, [(facts.epochs - 50, 5)])
    assert [metric.to_dict() for metric in cfg.val_evaluator] == [dict(type='EuclideanKNN', k=5)]


@pytest.mark.slow
@pytest.mark.parametrize(('method', 'data'), RECIPES)
def test_twin_differs_in_unmix_only(method: str, data: str) -> None:
    name = name_of(method, data)
    folder, stem = name.split('/')
    twin = load(f'{folder}/unmix-{stem}')
    unmix = dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5))
    assert twin.model.pop('unmix').to_dict() == unmix
    assert twin.to_dict() == load(name).to_dict()


def test_all_recipes_are_checked() -> None:
    files = {f'{folder}/{path.stem}' for folder in ('simclr', 'byol', 'wmse')
             for path in (config_root() / folder).glob('*_resnet18_*.py') if 'unmix-' not in path.stem}  # fmt: skip
    assert files == {name_of(*recipe) for recipe in RECIPES}
