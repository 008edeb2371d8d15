"""Fused optimisers: where they are built, what they compute, and how they resume."""

import copy
from contextlib import suppress

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from torch import nn

from unmix.engine.optimizers import FusedConstructor
from unmix.models.algorithms.momentum import MomentumEncoder
from unmix.testing.tolerances import assert_same, rounding


def build(scope='unmix', **optimizer):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    with DefaultScope.overwrite_default_scope(scope):
        wrapper = build_optim_wrapper(model, dict(optimizer=dict(dict(lr=0.1, weight_decay=0.01), **optimizer)))
    return model, wrapper


def train(model, optimizer, steps=3):
    """Take steps with gradients that are given.

    Those of a loss would also tell how Adam amplifies rounding: it brings a gradient of 1e-17, as a bias before a
    BatchNorm has, to the size of the others.
    """
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize('optimizer', [dict(type='SGD', momentum=0.9), dict(type='Adam'), dict(type='AdamW')])
def test_same_weights_as_the_plain_form(optimizer):
    (model, wrapper), (twin, plain) = build(**optimizer), build(**optimizer, fused=False)
    assert [w.optimizer.param_groups[0]['fused'] for w in (wrapper, plain)] == [True, False]
    expected = train(twin, plain.optimizer)
    for name, value in train(model, wrapper.optimizer).items():
        assert_same(value, expected[name], rounding(3 * 20), name)  # at most 20 operations on a weight in each step


@pytest.mark.parametrize(('scope', 'optimizer'), [
    ('mmengine', dict(type='SGD')), ('unmix', dict(type='SGD', foreach=True)), ('unmix', dict(type='Adagrad')),
])  # fmt: skip
def test_who_keeps_the_form_that_was_asked_for(scope, optimizer):
    assert build(scope, **optimizer)[1].optimizer.param_groups[0].get('fused') is None


def test_optimisers_without_a_fused_form():
    assert 'fused' not in build(type='LARC')[1].optimizer.param_groups[0]


def test_scaled_losses_keep_the_plain_form():
    constructor = FusedConstructor(dict(type='AmpOptimWrapper', optimizer=dict(type='SGD', lr=0.1)))
    with suppress(AssertionError):  # the wrapper refuses CPUs, after the optimiser has been built
        constructor(nn.Linear(2, 2))
    assert 'fused' not in constructor.optimizer_cfg


def test_a_device_without_kernel(monkeypatch):
    monkeypatch.setattr('torch.utils._foreach_utils._get_fused_kernels_supported_devices', lambda: ['cuda'])
    assert build(type='SGD')[1].optimizer.param_groups[0]['fused'] is None


def test_a_plain_checkpoint_goes_on_plain():
    """Bit for bit as without the interruption, whatever form the new process would choose."""
    model, plain = build(type='SGD', momentum=0.9, fused=False)
    train(model, plain.optimizer)
    twin, wrapper = build(type='SGD', momentum=0.9)
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    wrapper.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert wrapper.optimizer.param_groups[0]['fused'] is False
    expected = train(model, plain.optimizer)
    assert all(torch.equal(value, expected[name]) for name, value in train(twin, wrapper.optimizer).items())


def test_momentum_encoder_follows_a_fused_optimiser():
    model = nn.Linear(3, 2)
    encoder = MomentumEncoder(model, nn.Identity(), 0.9)
    expected = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        encoder.update(model, nn.Identity())
        expected = 0.9 * expected + 0.1 * model.weight.detach()
        torch.testing.assert_close(encoder.backbone.weight, expected)
