"""Every number of the MoCo recipes against the published ones, as the papers and released scripts have them."""

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from unmix.config import config_root, load_config

CIFAR_MEAN = [255 * value for value in (0.4914, 0.4822, 0.4465)]
CIFAR_STD = [255 * value for value in (0.2023, 0.1994, 0.2010)]
IMAGENET_MEAN = [255 * value for value in (0.485, 0.456, 0.406)]
IMAGENET_STD = [255 * value for value in (0.229, 0.224, 0.225)]


def jitter(hue: float) -> dict:
    return dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=hue)


def crop(size: int, smallest: float) -> dict:
    return dict(type='RandomResizedCrop', size=size, scale=(smallest, 1.0))


FLIP = dict(type='RandomHorizontalFlip')
GRAY = dict(type='RandomGrayscale', p=0.2)
JITTER = dict(type='RandomApply', p=0.8, transforms=[jitter(0.1)])
BLUR = dict(type='RandomApply', p=0.5, transforms=[dict(type='PILGaussianBlur', sigma=(0.1, 2.0))])

# In the order of the released scripts.
AUGMENTATIONS = {
    'cifar': [crop(32, 0.08), FLIP, JITTER, GRAY],
    'v1': [crop(224, 0.2), GRAY, jitter(0.4), FLIP],
    'v2': [crop(224, 0.2), JITTER, GRAY, BLUR, FLIP],
}
STEPS = [dict(type='MultiStepLR', milestones=[120, 160], gamma=0.1)]
COSINE_FROM_0, COSINE_FROM_1 = [dict(type='CosineLR')], [dict(type='CosineLR', first_epoch=1)]

CIFAR_MODEL = dict(
    momentum=0.99,
    backbone=dict(type='ResNet', depth=18, stem='cifar', num_splits=8),
    neck=dict(type='LinearNeck', in_dim=512, out_dim=128),
    head=dict(type='InfoNCEHead', dim=128, queue_size=4096, temperature=0.1),
)
V1_MODEL = dict(
    symmetric=False,
    momentum=0.999,
    backbone=dict(type='ResNet', depth=50),
    neck=dict(type='LinearNeck', in_dim=2048, out_dim=128),
    head=dict(type='InfoNCEHead', dim=128, queue_size=65536, temperature=0.07),
)
V2_MODEL = V1_MODEL | dict(
    neck=dict(type='MLPNeck', in_dim=2048, hidden_dim=2048, out_dim=128),
    head=dict(type='InfoNCEHead', dim=128, queue_size=65536, temperature=0.2),
)
CIFAR = dict(batch=512, lr=0.06, weight_decay=5e-4, epochs=1000, schedule=COSINE_FROM_1, augmentation='cifar')
IMAGENET = dict(batch=32, lr=0.03, weight_decay=1e-4, epochs=200)
V1 = IMAGENET | dict(model=V1_MODEL, schedule=STEPS, augmentation='v1', prob=0.0)
V2 = IMAGENET | dict(model=V2_MODEL, schedule=COSINE_FROM_0, augmentation='v2', prob=0.5)

RECIPES: dict[str, dict[str, Any]] = {
    'mocov1_resnet50_8xb32-steplr-200e_in1k': V1,
    'mocov2_resnet50_8xb32-coslr-200e_in1k': V2,
    'mocov2_resnet50_8xb32-coslr-800e_in1k': V2 | dict(epochs=800),
    'mocov1_resnet50_4xb32-steplr-200e_in100': V1,
    'mocov2_resnet50_4xb32-coslr-200e_in100': V2,
}
for name in ('cifar10', 'cifar100'):
    for form, symmetric in (('sym', True), ('asym', False)):
        RECIPES[f'moco-{form}_resnet18_1xb512-coslr-1000e_{name}'] = CIFAR | dict(
            model=CIFAR_MODEL | dict(symmetric=symmetric), prob=0.5
        )


def load(name: str) -> Config:
    return load_config(f'unmix::moco/{name}.py')


def plain(value: Any) -> Any:
    """Lists for tuples, so that configs compare by content."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def test_all_recipes_are_checked() -> None:
    files = {path.stem for path in (config_root() / 'moco').glob('*.py')}
    assert files == {*RECIPES, *(f'unmix-{name}' for name in RECIPES)}


@pytest.mark.parametrize('name', RECIPES)
def test_published_numbers(name: str) -> None:
    recipe, cfg = RECIPES[name], load(name)
    cifar = 'cifar' in name
    model = dict(symmetric=False) | cfg.model.to_dict()
    normalisation = model.pop('data_preprocessor')
    assert model == dict(type='MoCo') | recipe['model']
    assert normalisation['mean'] == pytest.approx(CIFAR_MEAN if cifar else IMAGENET_MEAN)
    assert normalisation['std'] == pytest.approx(CIFAR_STD if cifar else IMAGENET_STD)

    loader = cfg.train_dataloader
    assert loader.batch_size == recipe['batch']
    assert loader.drop_last is True
    assert loader.sampler.get('shuffle', True) is True
    pipeline = dict(type='MultiView', num_views=2, transforms=AUGMENTATIONS[recipe['augmentation']])
    assert plain(loader.dataset.pipeline.to_dict()) == plain(pipeline)

    optimizer = dict(type='SGD', lr=recipe['lr'], momentum=0.9, weight_decay=recipe['weight_decay'])
    # Nothing else: no parameter is left out of the weight decay, no gradient is clipped or accumulated.
    assert cfg.optim_wrapper.to_dict() == dict(type='OptimWrapper', optimizer=optimizer)
    assert plain([schedule.to_dict() for schedule in cfg.param_scheduler]) == recipe['schedule']
    assert cfg.train_cfg.max_epochs == recipe['epochs']
    processes = int(name.split('_')[2].split('xb')[0])
    assert cfg.auto_scale_lr.base_batch_size == processes * recipe['batch']
    assert cfg.auto_scale_lr.enable is False

    (knn,) = [metric for metric in evaluators(cfg) if metric['type'] == 'KNN']
    assert dict(k=200, temperature=0.1) | knn == dict(type='KNN', k=200, temperature=0.1)
    if cifar:
        assert cfg.val_cfg.stage == 'neck'


def evaluators(cfg: Config) -> list[dict]:
    evaluator = cfg.val_evaluator
    return [dict(metric) for metric in (evaluator if isinstance(evaluator, list) else [evaluator])]


@pytest.mark.parametrize('name', RECIPES)
def test_twin_differs_in_unmix_only(name: str) -> None:
    twin, base = load(f'unmix-{name}'), load(name)
    unmix = twin.model.pop('unmix').to_dict()
    replay = dict(replay_bn_stats=True) if '-sym_' in name else {}
    assert unmix == dict(type='UnMix', mixing=dict(type='RandomMixing', prob=RECIPES[name]['prob']), **replay)
    assert twin.to_dict() == base.to_dict()
    lines = Path(twin.filename).read_text(encoding='utf-8').splitlines()
    assert 2 <= len(lines) <= 5
