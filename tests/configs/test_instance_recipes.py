"""Every number of the recipes of InstDisc, CMC and PIC against the published ones."""

from typing import Any

import pytest
import torch

import unmix.engine  # noqa: F401  registers CosineLR
from unmix.config import config_root, load_config
from unmix.registry import PARAM_SCHEDULERS

FOLDERS = ('instdisc', 'cmc', 'pic')
IMAGES = dict(in1k=1281167, in100=126689)
LINEAR = dict(type='LinearNeck', in_dim=2048, out_dim=128)
PIC_NETWORK = dict(
    backbone=dict(type='ResNet', depth=50, zero_init_residual=True),
    neck=dict(type='MLPNeck', in_dim=2048, hidden_dim=2048, out_dim=128),
)
CMC_NETWORK = dict(
    type='CMC',
    backbone=dict(type='TwoBranch', branch=dict(type='ResNet', depth=50, width=32, stem_width=64)),
    neck=dict(type='TwoBranchNeck', neck=dict(LINEAR, in_dim=1024)),
)
MOCO = dict(
    type='MoCo',
    momentum=0.999,
    backbone=dict(type='ResNet', depth=50),
    neck=LINEAR,
    head=dict(type='InfoNCEHead', dim=128, queue_size=16384, temperature=0.07),
)


def bank(num_negatives: int, data: str = 'in1k', form: str = 'softmax', **options: Any) -> dict:
    """A head with a bank."""
    sizes = dict(num_instances=IMAGES[data], dim=128, num_negatives=num_negatives)
    return dict(type='NCEHead', temperature=0.07, momentum=0.5, form=form) | sizes | options


def instdisc(*args: Any, **options: Any) -> dict:
    """InstDisc of the CMC repository."""
    head = bank(*args, bank_init='uniform', **options)
    return dict(type='InstDisc', backbone=dict(type='ResNet', depth=50), neck=LINEAR, head=head)


def cmc(*args: Any, **options: Any) -> dict:
    return dict(CMC_NETWORK, head=bank(*args, type='CMCHead', bank_init='uniform', **options))


def pic(**options: Any) -> dict:
    head = dict(type='PICHead', num_instances=IMAGES['in1k'], dim=128, temperature=0.2, num_large=1)
    return dict(PIC_NETWORK, type='PIC', head=dict(head, **options))


INSTDISC_MLP = dict(PIC_NETWORK, type='InstDisc', head=bank(65536))
RECENT = dict(num_recent=65536, max_phases=131072)
RECIPES = {
    'instdisc/instdisc-mlp_resnet50_4xb64-coslr-200e_in1k': INSTDISC_MLP,
    'instdisc/instdisc-mlp_resnet50_4xb64-coslr-400e_in1k': INSTDISC_MLP,
    'instdisc/instdisc-nce_resnet50_4xb32-steplr-200e_in1k': instdisc(4096, form='nce'),
    'instdisc/instdisc-softmax4096_resnet50_4xb32-steplr-200e_in1k': instdisc(4096),
    'instdisc/instdisc-softmax16384_resnet50_4xb32-steplr-200e_in1k': instdisc(16384),
    'instdisc/instdisc-softmax16384_resnet50_4xb32-steplr-240e_in100': instdisc(16384, 'in100'),
    'cmc/cmc-lab_resnet50-half_4xb32-steplr-200e_in1k': cmc(16384, form='nce'),
    'cmc/cmc-ycbcr_resnet50-half_4xb32-steplr-240e_in100': cmc(4096, 'in100'),
    'cmc/moco-cmc_resnet50_4xb32-steplr-200e_in1k': MOCO,
    'cmc/moco-cmc_resnet50_4xb32-steplr-240e_in100': MOCO,
    'pic/pic_resnet50_4xb64-mcrop-coslr-1955e_in1k': pic(),
    'pic/pic_resnet50_4xb64-mcrop-coslr-3910e_in1k': pic(),
    'pic/pic-recent_resnet50_4xb64-mcrop-coslr-1955e_in1k': pic(**RECENT),
}

FLIP, GRAY = dict(type='RandomHorizontalFlip'), dict(type='RandomGrayscale', p=0.2)
WEAK = dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4)
STRONG = [
    FLIP,
    dict(
        type='RandomApply',
        p=0.8,
        transforms=[dict(type='ColorJitter', brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)],
    ),
    GRAY,
    dict(type='RandomApply', p=0.5, transforms=[dict(type='PILGaussianBlur', sigma=(0.1, 2.0))]),
]


def crop(size: int, smallest: float, largest: float = 1.0) -> dict:
    return dict(type='RandomResizedCrop', size=size, scale=(smallest, largest))


def pipeline(name: str) -> dict:
    """In PIC's repository flip, jitter, grey; in CMC's grey, jitter, flip; CMC itself crops and flips."""
    if name.startswith('pic/'):
        kinds = (1, [crop(160, 0.14), *STRONG]), (3, [crop(96, 0.08, 0.14), *STRONG])
        return dict(type='MultiCrop', crops=[dict(num_views=n, transforms=transforms) for n, transforms in kinds])
    transforms = [crop(224, 0.2), GRAY, WEAK, FLIP]
    if 'mlp' in name:
        transforms = [crop(224, 0.2), FLIP, WEAK, GRAY]
    if 'cmc-lab' in name or 'cmc-ycbcr' in name:
        transforms = [crop(224, 0.08 if name.endswith('in1k') else 0.2), FLIP]
    return dict(type='MultiView', num_views=2 if 'moco' in name else 1, transforms=transforms)


def load(name):
    return load_config(f'unmix::{name}.py')


def test_all_recipes_are_checked() -> None:
    files = {f'{folder}/{path.stem}' for folder in FOLDERS for path in (config_root() / folder).glob('[!u]*.py')}
    assert files == set(RECIPES)


@pytest.mark.parametrize('name', RECIPES)
def test_published_numbers(name):
    cfg = load(name)
    of_cmc = 'steplr' in name
    model = cfg.model.to_dict()
    preprocessor = model.pop('data_preprocessor')
    assert model == RECIPES[name]
    if 'cmc-lab' in name or 'cmc-ycbcr' in name:
        assert preprocessor == dict(type='ColorPreprocessor', color_space=name.split('cmc-')[1].split('_')[0])
    else:
        assert preprocessor['std'] == pytest.approx([0.229 * 255, 0.224 * 255, 0.225 * 255])
    loader = cfg.train_dataloader
    assert loader.batch_size == (32 if of_cmc else 64)
    assert loader.drop_last is not of_cmc  # the CMC repository keeps the last batch, smaller or not
    assert loader.dataset.pipeline.to_dict() == pipeline(name)
    optimizer = dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4)
    assert cfg.optim_wrapper.to_dict() == dict(type='OptimWrapper', optimizer=optimizer)
    assert cfg.auto_scale_lr.base_batch_size == 4 * loader.batch_size
    if of_cmc:
        milestones = [120, 160, 200] if name.endswith('in100') else [120, 160]
        assert cfg.param_scheduler == [dict(type='MultiStepLR', milestones=milestones, gamma=0.1)]
        assert cfg.train_cfg.max_epochs == (240 if name.endswith('in100') else 200)
        return
    ramp, cosine = cfg.param_scheduler
    assert (ramp.type, ramp.start_factor, ramp.by_epoch) == ('LinearLR', 0.01, False)
    assert (cosine.type, cosine.eta_min, cosine.by_epoch) == ('CosineLR', 1e-6, False)
    if name.startswith('instdisc/'):  # iterations of an epoch: 1281167 // 256; a fortieth of the epochs to warm up
        epochs = cfg.train_cfg.max_epochs
        assert ramp.end == cosine.begin + 1 == epochs // 40 * 5004 + 1
        assert cosine.end == epochs * 5004 == cosine.begin + cosine.T_max


@pytest.mark.slow
@pytest.mark.parametrize('name', RECIPES)
def test_twin_differs_in_unmix_only(name):
    folder, stem = name.split('/')
    twin = load(f'{folder}/unmix-{stem}')
    assert twin.model.pop('unmix').to_dict() == dict(type='UnMix')
    assert twin.to_dict() == load(name).to_dict()


@pytest.mark.parametrize(('name', 'windows', 'warmup'), [
    ('pic/pic_resnet50_4xb64-mcrop-coslr-1955e_in1k', 1955, 49),
    ('pic/pic_resnet50_4xb64-mcrop-coslr-3910e_in1k', 3910, 98),
])  # fmt: skip
def test_windows_of_pic(name, windows, warmup):
    cfg = load(name)
    assert cfg.train_cfg.max_epochs == windows
    ramp, cosine = cfg.param_scheduler
    assert ramp.end == cosine.begin + 1 == warmup * 512 + 1
    assert cosine.end == windows * 512 == cosine.begin + cosine.T_max
    sampler = cfg.train_dataloader.sampler
    assert (sampler.window, sampler.stride) == (131072, 16384)
    large, small = cfg.train_dataloader.dataset.pipeline.crops
    assert (large.num_views, small.num_views, cfg.model.head.num_large) == (1, 3, 1)
    assert (large.transforms[0].size, large.transforms[0].scale) == (160, (0.14, 1.0))
    assert (small.transforms[0].size, small.transforms[0].scale) == (96, (0.08, 0.14))


def test_rates_of_the_400_epochs_of_pic():
    """Each scheduler is placed at the iteration directly: it is a function of it."""
    cfg = load('pic/pic_resnet50_4xb64-mcrop-coslr-3910e_in1k')
    ramp, cosine = cfg.param_scheduler
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.03)
    scheduler = PARAM_SCHEDULERS.build(dict(cosine, optimizer=optimizer, begin=0, end=cosine.T_max))
    for iteration, rate in ((50176, 3.0e-2), (1000960, 1.561e-2), (2001919, 1e-6)):
        scheduler.last_step = iteration - cosine.begin
        assert scheduler._get_value()[0] == pytest.approx(rate, rel=1e-3)
    for iteration, rate in ((0, 3e-4), (25088, 1.515e-2), (50176, 3e-2)):
        share = ramp.start_factor + (1 - ramp.start_factor) * iteration / (ramp.end - 1)
        assert 0.03 * share == pytest.approx(rate, rel=1e-3)


def test_recent_classes_are_remembered_for_the_longest_rest():
    """With a rate that changes every iteration: an image may come first in a pass and last in the next."""
    cfg = load('pic/pic-recent_resnet50_4xb64-mcrop-coslr-1955e_in1k')
    passes = 2 * 1281167 / 16384 * 512
    assert cfg.model.head.max_phases > passes > 65536
    assert cfg.model.head.num_recent == 65536
