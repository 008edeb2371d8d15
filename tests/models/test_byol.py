"""BYOL's momentum encoder."""

import pytest
import torch
from algorithms_under_test import ALGORITHMS

from unmix.models.algorithms import byol
from unmix.registry import MODELS
from unmix.utils.clock import Clock, Step


def build(name, **changes):
    torch.manual_seed(0)
    return MODELS.build(dict(ALGORITHMS[name], **changes)).double()


def views(seed=0, size=6, num_views=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, 8, 8, dtype=torch.float64, generator=generator) for _ in range(num_views)]


def test_byol_target_moves_once_an_optimiser_step():
    model = build('byol', momentum=0.9)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    expected = {key: value.clone() for key, value in model.neck.named_parameters()}
    for step in range(3):
        for micro in range(2):
            model.loss(views(10 * step + micro))['loss_base'].backward()
            for key, value in model.momentum_encoder.neck.named_parameters():
                torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-12)
                assert value.grad is None
            if micro == 0:
                model.after_step(stepped=False)
        optimizer.step()
        model.after_step()
        optimizer.zero_grad()
        online = dict(model.neck.named_parameters())
        expected = {key: (0.9 * value + 0.1 * online[key]).detach() for key, value in expected.items()}


def test_byol_momentum_rises_to_one():
    model = build('byol', momentum=0.99)
    assert model.momentum_at(0.0) == pytest.approx(0.99)
    assert model.momentum_at(0.5) == pytest.approx(0.995)
    assert 0.99999 < model.momentum_at(0.999) < model.momentum_at(1.0) == 1.0


@pytest.mark.parametrize(('by_epoch', 'expected'), [(False, [0, 1 / 12, 5 / 12]), (True, [0, 0, 1 / 3])])
def test_byol_progress_counts_the_steps_before(monkeypatch, by_epoch, expected):
    model = build('byol', momentum_by_epoch=by_epoch)
    for iteration, progress in zip((0, 1, 5), expected, strict=True):
        monkeypatch.setattr(byol, 'read_clock', lambda iteration=iteration: Clock(0, iteration, 12, 3, iteration // 4))
        model.step = Step(iteration=iteration)
        assert model.progress() == pytest.approx(progress)


def test_byol_target_takes_over_initial_weights():
    model = build('byol')
    torch.nn.init.zeros_(model.backbone.conv1.weight)
    model.init_weights()
    assert torch.equal(model.momentum_encoder.backbone.conv1.weight, model.backbone.conv1.weight)
