"""Every number of SimCLR on ImageNet against script and defaults of the PIC repository."""

import inspect
import math

import pytest
import torch
from mmengine.config import Config

from unmix.config import load_config
from unmix.engine.optimizers import LARS
from unmix.registry import PARAM_SCHEDULERS

NAME = 'simclr/{}simclr_resnet50_4xb64-coslr-200e_in1k'
STEPS = 5004  # iterations of an epoch: 64 images on each of 4 GPUs, the rest dropped
WARMUP, ALL = 5 * STEPS, 200 * STEPS
LR, FLOOR = 0.3, 1e-6  # the floor is a rate, not a share


def load(prefix: str = '') -> Config:
    return load_config(f'unmix::{NAME.format(prefix)}.py')


def test_model() -> None:
    """Views are encoded one by one; an MLP without BatchNorm; residual branches that start at zero."""
    cfg = load()
    model = cfg.model.to_dict()
    normalisation = model.pop('data_preprocessor')
    assert model == dict(
        type='SimCLR',
        backbone=dict(type='ResNet', depth=50, zero_init_residual=True),
        neck=dict(type='MLPNeck', in_dim=2048, hidden_dim=2048, out_dim=128),
        head=dict(type='NTXentHead', temperature=0.1),
    )
    assert cfg.sync_bn == 'torch'
    assert normalisation['mean'] == pytest.approx([255 * value for value in (0.485, 0.456, 0.406)])
    assert normalisation['std'] == pytest.approx([255 * value for value in (0.229, 0.224, 0.225)])


def test_data() -> None:
    cfg = load()
    loader = cfg.train_dataloader
    assert (loader.batch_size, cfg.auto_scale_lr.base_batch_size, loader.drop_last) == (64, 256, True)
    assert cfg.auto_scale_lr.enable is False
    pipeline = loader.dataset.pipeline
    crop, flip, jitter, gray, blur = pipeline.transforms
    assert (pipeline.type, pipeline.num_views) == ('MultiView', 2)
    assert crop == dict(type='RandomResizedCrop', size=224, scale=(0.08, 1.0))
    assert flip == dict(type='RandomHorizontalFlip')
    strength = dict(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
    assert jitter == dict(type='RandomApply', p=0.8, transforms=[dict(type='ColorJitter', **strength)])
    assert gray == dict(type='RandomGrayscale', p=0.2)
    assert blur == dict(type='RandomApply', p=0.5, transforms=[dict(type='PILGaussianBlur', sigma=(0.1, 2.0))])


def test_optimizer() -> None:
    """0.3 for 256 images; biases and BatchNorm are left out by LARS itself, whose other numbers are its defaults."""
    cfg = load()
    optimizer = dict(type='LARS', lr=LR, momentum=0.9, weight_decay=1e-6)
    assert cfg.optim_wrapper.to_dict() == dict(type='OptimWrapper', optimizer=optimizer)
    defaults = {name: parameter.default for name, parameter in inspect.signature(LARS).parameters.items()}
    assert (defaults['trust_coefficient'], defaults['eps']) == (0.001, 1e-8)
    assert cfg.train_cfg.max_epochs == 200


def rate(step: int) -> float:
    """The released schedule."""
    if step <= WARMUP:
        return LR / 100 * (99 * step / WARMUP + 1)
    return FLOOR + (LR - FLOOR) * (1 + math.cos(math.pi * (step - WARMUP) / (ALL - WARMUP))) / 2


@pytest.mark.slow
def test_rates() -> None:
    """Each of 25,020 iterations of the warm-up; the cosine, a function of the iteration, at some."""
    warmup, cosine = load().param_scheduler
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = PARAM_SCHEDULERS.build(dict(warmup, optimizer=optimizer))
    for step in range(WARMUP + 1):
        if step:
            optimizer.step()
            scheduler.step()
        if step % 500 == 0 or step >= WARMUP - 1:
            assert optimizer.param_groups[0]['lr'] == pytest.approx(rate(step), rel=1e-9)
    assert (cosine['begin'], cosine['end'], cosine['by_epoch']) == (WARMUP, ALL, False)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = PARAM_SCHEDULERS.build(dict(cosine, optimizer=optimizer, begin=0, end=ALL - WARMUP))
    for step in (WARMUP, WARMUP + 1, ALL // 2, ALL - 1):
        scheduler.last_step = step - WARMUP
        assert scheduler._get_value()[0] == pytest.approx(rate(step), rel=1e-9)


def test_twin_differs_in_unmix_only() -> None:
    twin = load('unmix-')
    assert twin.model.pop('unmix').to_dict() == dict(type='UnMix', mixing=dict(type='RandomMixing', prob=0.5))
    assert twin.to_dict() == load().to_dict()
