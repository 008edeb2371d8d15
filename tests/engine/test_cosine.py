"""CosineLR against its closed form; tests/golden has the released scripts' numbers."""

import math

import pytest
import torch
from mmengine.optim import OptimWrapper

from unmix.registry import PARAM_SCHEDULERS


def schedule(steps, resume_at=None, **config):
    """Learning rates of ``steps`` steps, optionally through a state dict into a new scheduler after some."""

    def build():
        parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
        groups = [dict(params=parameters[:1]), dict(params=parameters[1:], lr=0.6)]
        wrapper = OptimWrapper(torch.optim.SGD(groups, lr=0.06))
        return wrapper, PARAM_SCHEDULERS.build(dict(type='unmix.CosineLR', optimizer=wrapper, epoch_length=7, **config))

    wrapper, scheduler = build()
    rates = []
    for step in range(steps):
        if step == resume_at:
            states = wrapper.state_dict(), scheduler.state_dict()
            wrapper, scheduler = build()
            wrapper.load_state_dict(states[0])
            scheduler.load_state_dict(states[1])
        rates.append(wrapper.get_lr()['lr'])
        wrapper.step()
        scheduler.step()
    return rates


def closed_form(lr, t, total, eta_min=0.0):
    return eta_min + (lr - eta_min) * (1 + math.cos(math.pi * t / total)) / 2


@pytest.mark.parametrize('resume_at', [None, 0, 137])
@pytest.mark.parametrize('first_epoch', [0, 1])
def test_by_epoch(first_epoch, resume_at):
    rates = schedule(200, resume_at, T_max=200, first_epoch=first_epoch)
    for epoch, (a, b) in enumerate(rates):
        assert a == pytest.approx(closed_form(0.06, epoch + first_epoch, 200), abs=1e-15)
        assert b == pytest.approx(closed_form(0.6, epoch + first_epoch, 200), abs=1e-15)
    assert (rates[0][0] == 0.06) == (first_epoch == 0)
    assert (rates[-1][0] == 0) == (first_epoch == 1)


def test_published_cifar_schedule():
    rates = schedule(1000, T_max=1000, first_epoch=1)
    assert rates[0][0] == pytest.approx(0.0599998520, abs=5e-11)
    assert rates[-1] == [0, 0]


def test_by_iteration_equals_converted_epochs():
    rates = schedule(70, by_epoch=False, end=70)
    assert rates == schedule(70, T_max=10, convert_to_iter_based=True)
    assert rates == schedule(70, end=10, convert_to_iter_based=True)
    assert [a for a, _ in rates] == pytest.approx([closed_form(0.06, i, 70) for i in range(70)], abs=1e-15)


def test_part_of_a_training():
    rates = [a for a, _ in schedule(12, begin=3, end=9, eta_min=0.01)]
    part = [closed_form(0.06, t, 6, 0.01) for t in range(6)]
    assert rates == pytest.approx([0.06] * 3 + part + part[-1:] * 3, abs=1e-15)


@pytest.mark.parametrize('config', [dict(first_epoch=2), dict(first_epoch=1, by_epoch=False)])
def test_bad_first_epoch(config):
    with pytest.raises(ValueError, match=r'param_scheduler\.first_epoch is'):
        schedule(1, **config)
