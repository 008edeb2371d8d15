"""Every number of the recipes of MoCo with alignment and uniformity against those of its README and its defaults."""

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from unmix.config import config_root, load_config
from unmix.registry import MODELS

MEAN = [255 * value for value in (0.485, 0.456, 0.406)]
STD = [255 * value for value in (0.229, 0.224, 0.225)]
CROP = dict(type='RandomResizedCrop', size=224, scale=[0.2, 1.0])
GRAY, FLIP = dict(type='RandomGrayscale', p=0.2), dict(type='RandomHorizontalFlip')
BLUR = dict(type='RandomApply', p=0.5, transforms=[dict(type='PILGaussianBlur', sigma=[0.1, 2.0])])


def jitter(hue: float) -> dict:
    return dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=hue)


# The flags --mlp, --aug-plus and --cos, which the README uses all together or not at all.
PLAIN = dict(
    neck=dict(type='LinearNeck', in_dim=2048, out_dim=128),
    augmentation=[CROP, GRAY, jitter(0.4), FLIP],
    schedule=[dict(type='MultiStepLR', milestones=[120, 160], gamma=0.1)],
    prob=0.0,  # of the global mixture, as for MoCo v1
)
STRONG = dict(
    neck=dict(type='MLPNeck', in_dim=2048, hidden_dim=2048, out_dim=128),
    augmentation=[CROP, dict(type='RandomApply', p=0.8, transforms=[jitter(0.1)]), GRAY, BLUR, FLIP],
    schedule=[dict(type='CosineLR')],
    prob=0.5,
)
RECIPES: dict[str, dict[str, Any]] = {
    'moco-align-uniform_resnet50_4xb32-steplr-200e_in100': PLAIN | dict(batch=128),
    'moco-align-uniform_resnet50_4xb32-coslr-200e_in100': STRONG | dict(batch=128),
    'moco-align-uniform_resnet50_8xb32-coslr-200e_in1k': STRONG | dict(batch=256),
}


def load(name: str) -> Config:
    return load_config(f'unmix::moco-align-uniform/{name}.py')


def plain(value: Any) -> Any:
    """Lists for tuples, so that configs compare by content."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def test_all_recipes_are_checked() -> None:
    files = {path.stem for path in (config_root() / 'moco-align-uniform').glob('*.py')}
    assert files == {*RECIPES, *(f'unmix-{name}' for name in RECIPES)}


@pytest.mark.parametrize('name', RECIPES)
def test_published_numbers(name: str) -> None:
    recipe, cfg = RECIPES[name], load(name)
    model = cfg.model.to_dict()
    normalisation, head = model.pop('data_preprocessor'), model.pop('head')
    assert model == dict(type='MoCo', momentum=0.999, backbone=dict(type='ResNet', depth=50), neck=recipe['neck'])
    assert normalisation['mean'] == pytest.approx(MEAN)
    assert normalisation['std'] == pytest.approx(STD)

    # --moco-k, --moco-dim; then the weights and their parameters, defaults of the config's and of the head.
    assert (head['type'], head['queue_size'], head['dim']) == ('AlignUniformHead', 65536, 128)
    built = MODELS.build(dict(head, queue_size=8))
    assert built.weights == dict(contrast=0.0, align=3.0, uniform=1.0)
    assert (built.alpha, built.t, built.intra_batch, built.scope) == (2.0, 3.0, True, 'rank')

    loader = cfg.train_dataloader
    assert loader.batch_size == 32
    assert cfg.auto_scale_lr.base_batch_size == recipe['batch']
    assert loader.drop_last is True
    assert loader.sampler.get('shuffle', True) is True
    pipeline = dict(type='MultiView', num_views=2, transforms=recipe['augmentation'])
    assert plain(loader.dataset.pipeline.to_dict()) == pipeline
    assert loader.dataset.get('class_list') == ('imagenet100.txt' if name.endswith('in100') else None)

    optimizer = dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4)  # 0.03 for both batches
    assert cfg.optim_wrapper.to_dict() == dict(type='OptimWrapper', optimizer=optimizer)
    assert plain([schedule.to_dict() for schedule in cfg.param_scheduler]) == recipe['schedule']
    assert cfg.train_cfg.max_epochs == 200


@pytest.mark.slow
@pytest.mark.parametrize('name', RECIPES)
def test_twin_differs_in_unmix_only(name: str) -> None:
    twin, base = load(f'unmix-{name}'), load(name)
    mixing = dict(type='RandomMixing', prob=RECIPES[name]['prob'])
    assert twin.model.pop('unmix').to_dict() == dict(type='UnMix', mixing=mixing)
    assert twin.to_dict() == base.to_dict()
    assert 2 <= len(Path(twin.filename).read_text(encoding='utf-8').splitlines()) <= 5
