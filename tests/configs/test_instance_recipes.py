"""The recipes of InstDisc, CMC and PIC against the published numbers."""

import pytest
import torch

import unmix.engine  # noqa: F401  registers CosineLR
from unmix.apis.config import config_root, load_config
from unmix.registry import PARAM_SCHEDULERS

SGD = dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=1e-4)
NAMES = sorted(
    f'{path.parent.name}/{path.stem}'
    for folder in ('instdisc', 'cmc', 'pic')
    for path in (config_root() / folder).glob('*.py')
    if not path.stem.startswith('unmix-')
)


def load(name):
    return load_config(f'unmix::{name}.py')


@pytest.mark.parametrize('name', NAMES)
def test_what_all_have_in_common(name):
    cfg = load(name)
    assert dict(cfg.optim_wrapper.optimizer) == SGD
    assert cfg.model.head.dim == 128
    assert cfg.model.head.temperature == (0.2 if 'pic' in name else 0.07)
    if 'num_instances' in cfg.model.head:
        assert cfg.model.head.num_instances == (126689 if name.endswith('in100') else 1281167)
    if 'steplr' in name:
        assert [scheduler.type for scheduler in cfg.param_scheduler] == ['MultiStepLR']
        assert cfg.param_scheduler[0].milestones == ([120, 160, 200] if name.endswith('in100') else [120, 160])
        assert cfg.auto_scale_lr.base_batch_size == 128
    else:
        assert cfg.auto_scale_lr.base_batch_size == 256


@pytest.mark.parametrize(('name', 'crop', 'jitter'), [
    ('instdisc/instdisc-mlp_resnet50_4xb64-coslr-200e_in1k', 0.2, 2),
    ('instdisc/instdisc-nce_resnet50_4xb32-steplr-200e_in1k', 0.2, 2),
    ('cmc/moco-cmc_resnet50_4xb32-steplr-200e_in1k', 0.2, 2),
    ('cmc/cmc-lab_resnet50-half_4xb32-steplr-200e_in1k', 0.08, None),
    ('cmc/cmc-ycbcr_resnet50-half_4xb32-steplr-240e_in100', 0.2, None),
])  # fmt: skip
def test_augmentations(name, crop, jitter):
    """In InstDisc of PIC flip, jitter, grey; in the CMC repository grey, jitter, flip; CMC crops and flips."""
    pipeline = load(name).train_dataloader.dataset.pipeline
    kinds = [transform.type for transform in pipeline.transforms]
    assert pipeline.transforms[0].scale == (crop, 1.0)
    assert pipeline.num_views == (2 if 'moco' in name else 1)
    if jitter is None:
        assert kinds == ['RandomResizedCrop', 'RandomHorizontalFlip']
        return
    assert pipeline.transforms[jitter].hue == 0.4
    rest = ['RandomHorizontalFlip', 'ColorJitter', 'RandomGrayscale']
    assert kinds[1:] == (rest if 'mlp' in name else rest[::-1])


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
