"""RampCosineLR: SwAV's table of learning rates."""

import pytest
import torch

from unmix.engine.schedulers import RampCosineLR


def rates(num, **arguments):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.6)
    scheduler = RampCosineLR(optimizer, by_epoch=False, end=num, **arguments)
    values = []
    for _ in range(num):
        values.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.slow
def test_peak_comes_twice_and_the_end_is_not_reached():
    """The published CIFAR run: 390 iterations an epoch, 400 epochs, 5 of warm-up."""
    warmup, num = 5 * 390, 400 * 390
    values = rates(num, warmup=warmup, eta_min=0.0006)
    assert values[0] == 0
    assert values[warmup - 1] == values[warmup] == pytest.approx(0.6, abs=1e-15)
    assert values[-1] == pytest.approx(0.00060000006, abs=1e-11)
    assert values[-1] > 0.0006


def test_without_warmup_it_is_the_cosine():
    assert rates(4)[:3] == pytest.approx([0.6, 0.3 * (1 + 0.5**0.5), 0.3])


def test_warmup_must_be_shorter_than_the_schedule():
    with pytest.raises(ValueError, match=r'param_scheduler\.warmup is 4'):
        rates(4, warmup=4)


def test_without_endpoint_the_full_rate_comes_with_the_cosine_only():
    """Barlow Twins, VICReg and MoCo v3: ``lr0 * t / W`` in the warm-up."""
    assert rates(12, warmup=4, endpoint=False)[:5] == pytest.approx([0, 0.15, 0.3, 0.45, 0.6], abs=1e-15)


def test_a_group_may_keep_its_rate():
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [dict(params=parameters[:1]), dict(params=parameters[1:], lr=0.2, constant_lr=True)]
    optimizer = torch.optim.SGD(groups, lr=0.6)
    scheduler = RampCosineLR(optimizer, by_epoch=False, end=4)
    optimizer.step()
    scheduler.step()
    assert [group['lr'] for group in optimizer.param_groups] == pytest.approx([0.3 * (1 + 0.5**0.5), 0.2])
