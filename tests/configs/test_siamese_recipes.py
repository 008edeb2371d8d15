"""Recipes of SimSiam and its relatives: parameter groups and learning rates by the formulas of released code."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmengine import DefaultScope
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn

from unmix.config import load_config
from unmix.registry import MODELS, PARAM_SCHEDULERS

IMAGES = 1281167


def load(name: str) -> tuple[Config, nn.Module, OptimWrapper]:
    """Config, model and optimiser of a recipe, without memory."""
    cfg = load_config(f'unmix::{name}.py')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    with DefaultScope.overwrite_default_scope('unmix'):
        return cfg, model, build_optim_wrapper(model, cfg.optim_wrapper)


def rates(cfg: Config, wrapper: OptimWrapper, at: list[int], which: int = 0) -> list[list[float]]:
    """Rates of the groups at some iterations, by the closed form of the schedule, or what another one moves."""
    steps = IMAGES // cfg.auto_scale_lr.base_batch_size
    schedule = cfg.param_scheduler[which]
    options: dict[str, Any] = dict(schedule, optimizer=wrapper, end=cfg.train_cfg.max_epochs)
    cls = PARAM_SCHEDULERS.get(options.pop('type'))
    by_iteration = options.pop('convert_to_iter_based', False)
    scheduler = cls.build_iter_from_epoch(**options, epoch_length=steps) if by_iteration else cls(**options)
    values = []
    for iteration in at:
        scheduler.last_step = iteration if by_iteration else iteration // steps
        values.append(scheduler._get_value())
    return values


def check_rates(name: str, expected: Callable[[int, int, str, nn.Parameter], float]) -> None:
    """Compare all groups, one for each parameter, with the released formula of (iteration, steps, name, parameter)."""
    cfg, model, wrapper = load(name)
    steps = IMAGES // cfg.auto_scale_lr.base_batch_size
    at = [0, 1, steps, 10 * steps - 1, 10 * steps, 10 * steps + 1, 57 * steps + 3, cfg.train_cfg.max_epochs * steps - 1]
    names = {parameter: name for name, parameter in model.named_parameters()}
    for iteration, values in zip(at, rates(cfg, wrapper, at), strict=True):
        for group, rate in zip(wrapper.param_groups, values, strict=True):
            for parameter in names.keys() & set(group['params']):  # MMEngine adds a group of its own
                want = expected(iteration, steps, names[parameter], parameter)
                assert rate == pytest.approx(want, rel=1e-12, abs=1e-15), f'{names[parameter]} in {iteration}'


@pytest.mark.slow
def test_simsiam() -> None:
    """A cosine of whole epochs, from 0.05 for 256 images; the predictor's rate is constant (--fix-pred-lr)."""
    lr = 0.05 * 512 / 256

    def released(iteration: int, steps: int, name: str, _: nn.Parameter) -> float:
        fixed = name.startswith('head.predictor.')
        return lr if fixed else lr * 0.5 * (1 + math.cos(math.pi * (iteration // steps) / 100))

    check_rates('simsiam/simsiam_resnet50_8xb64-coslr-100e_in1k', released)


def ramp(iteration: int, steps: int, epochs: int, floor: float = 0.0, warmup: int = 10) -> float:
    """The released schedule: a line from 0 over the warm-up, then a cosine to ``floor``; by iteration."""
    if iteration < warmup * steps:
        return iteration / (warmup * steps)
    cosine = 0.5 * (1 + math.cos(math.pi * (iteration - warmup * steps) / ((epochs - warmup) * steps)))
    return cosine + floor * (1 - cosine)


@pytest.mark.slow
def test_vicreg() -> None:
    """0.2 for 256 images, to a thousandth."""
    name = 'vicreg/vicreg_resnet50_32xb64-coslr-1000e_in1k'
    check_rates(name, lambda iteration, steps, *_: 0.2 * 2048 / 256 * ramp(iteration, steps, 1000, 0.001))


@pytest.mark.slow
def test_barlow_twins() -> None:
    """For 256 images 0.2, and 0.0048 of all parameters of one dimension; both to a thousandth."""

    def released(iteration: int, steps: int, _: str, parameter: nn.Parameter) -> float:
        rate = 0.0048 if parameter.ndim == 1 else 0.2
        return rate * 2048 / 256 * ramp(iteration, steps, 1000, 0.001)

    check_rates('barlow-twins/barlow-twins_resnet50_32xb64-coslr-1000e_in1k', released)


@pytest.mark.slow
def test_mixed_barlow_twins() -> None:
    """0.01 for 256 images, to a thousandth."""
    name = 'relatives/mixed-barlow-twins_resnet18_1xb256-coslr-2000e_cifar10'
    check_rates(name, lambda iteration, steps, *_: 0.01 * ramp(iteration, steps, 2000, 0.001))


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'lr', 'batch', 'epochs'), [
    ('moco-v3/moco-v3_resnet50_16xb256-coslr-100e_in1k', 0.6, 4096, 100),
    ('moco-v3/moco-v3_resnet50_16xb256-coslr-300e_in1k', 0.3, 4096, 300),
    ('nnclr/nnclr_resnet50_32xb128-coslr-1000e_in1k', 0.3, 4096, 1000),
])  # fmt: skip
def test_moco_v3_and_nnclr(name: str, lr: float, batch: int, epochs: int) -> None:
    """To zero."""
    check_rates(name, lambda iteration, steps, *_: lr * batch / 256 * ramp(iteration, steps, epochs))


@pytest.mark.slow
def test_dino() -> None:
    """0.03 for 256 images; the table of the warm-up has its full rate as last entry; decay of matrices only."""
    name, full = 'dino/dino_resnet50_8xb64-mcrop-coslr-100e_in1k', 0.03 * 512 / 256

    def released(iteration: int, steps: int, *_: object) -> float:
        if iteration < 10 * steps:
            return full * iteration / (10 * steps - 1)
        return 1e-6 + 0.5 * (full - 1e-6) * (1 + math.cos(math.pi * (iteration - 10 * steps) / (90 * steps)))

    check_rates(name, released)
    _, model, wrapper = load(name)
    decays = {parameter: group['weight_decay'] for group in wrapper.param_groups for parameter in group['params']}
    for parameter in model.parameters():
        if parameter.requires_grad:
            assert decays[parameter] == (1e-4 if parameter.ndim > 1 else 0)


@pytest.mark.slow
def test_moco_v3_of_a_vit() -> None:
    """1.5e-4 for 256 images, 40 epochs of warm-up; the patch embedding and the positions do not learn."""
    name = 'moco-v3/moco-v3_vit-small_8xb128-coslr-300e_in1k'
    check_rates(name, lambda iteration, steps, *_: 1.5e-4 * 1024 / 256 * ramp(iteration, steps, 300, warmup=40))
    _, model, wrapper = load(name)
    assert {group['weight_decay'] for group in wrapper.param_groups} == {0.1}
    still = {name for name, p in model.backbone.named_parameters() if not p.requires_grad}
    assert still == {f'network.{x}' for x in ('conv_proj.weight', 'conv_proj.bias', 'encoder.pos_embedding')}


@pytest.mark.slow
def test_dino_of_a_vit() -> None:
    """0.0005 for 256 images; weight decay from 0.04 to 0.4 of all but biases and norms."""
    name, full = 'dino/dino_vit-small_8xb64-mcrop-coslr-100e_in1k', 0.0005 * 512 / 256
    cfg, model, wrapper = load(name)
    steps = IMAGES // cfg.auto_scale_lr.base_batch_size
    for iteration in (0, 7 * steps + 1, 100 * steps - 1):
        (rate,) = {round(x, 15) for x in rates(cfg, wrapper, [iteration])[0]}
        want = full * iteration / (10 * steps - 1)
        if iteration >= 10 * steps:
            want = 1e-6 + 0.5 * (full - 1e-6) * (1 + math.cos(math.pi * (iteration - 10 * steps) / (90 * steps)))
        assert rate == pytest.approx(want, rel=1e-9, abs=1e-12)
        decay = 0.4 + 0.5 * (0.04 - 0.4) * (1 + math.cos(math.pi * iteration / (100 * steps)))
        for group, found in zip(wrapper.param_groups, rates(cfg, wrapper, [iteration], which=1)[0], strict=True):
            flat = all(p.ndim <= 1 for p in group['params'])
            assert found == pytest.approx(0.0 if flat and group['params'] else decay, rel=1e-12)
    assert model.momentum_encoder is not None
