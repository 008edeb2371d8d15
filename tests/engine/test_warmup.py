"""Schedules after a warm-up: torch's composition, resuming, bad input."""

from itertools import pairwise

import pytest
import torch

from unmix.engine.schedulers import WarmupCosineLR, WarmupStepLR
from unmix.registry import PARAM_SCHEDULERS


def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)


def rates(schedule, steps):
    values = []
    for _ in range(steps):
        values.append(schedule.optimizer.param_groups[0]['lr'])
        schedule.optimizer.step()
        schedule.step()
    return values


def test_steps_after_the_warm_up():
    schedule = WarmupStepLR(optimizer(), milestones=[1, 3, 4], gamma=0.1, warmup=6, epoch_length=5)
    expected = [0.5 * (i + 1) / 6 for i in range(6)]
    expected += [0.5 * 0.1 ** ((i >= 15) + (i >= 20)) for i in range(6, 25)]  # epoch 1 begins inside the warm-up
    assert rates(schedule, 25) == pytest.approx(expected, rel=1e-14)


def test_cosine_with_restarts_is_torchs():
    schedule = WarmupCosineLR(optimizer(), T_0=2, T_mult=3, eta_min=0.01, warmup=0, epoch_length=4)
    reference = optimizer()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(reference, T_0=2, T_mult=3, eta_min=0.01)
    expected = [reference.param_groups[0]['lr']]
    for i in range(4 * 10 - 1):
        reference.step()
        scheduler.step(i / 4)  # the released code sets the rate of a step to that of its beginning
        expected.append(reference.param_groups[0]['lr'])
    assert rates(schedule, 4 * 10) == pytest.approx(expected, rel=1e-12)


def test_cosine_over_the_whole_training():
    schedule = PARAM_SCHEDULERS.build(
        dict(type='WarmupCosineLR', optimizer=optimizer(), convert_to_iter_based=True, end=10, epoch_length=4, warmup=8)
    )
    values = rates(schedule, 40)
    assert values[7] == 0.5
    assert all(later < earlier for earlier, later in pairwise(values[8:]))
    assert 0 < values[-1] < 0.01


@pytest.mark.parametrize('schedule', [
    dict(type='WarmupStepLR', milestones=[3]),
    dict(type='WarmupCosineLR', T_0=3),
])  # fmt: skip
def test_resumed_is_uninterrupted(schedule):
    def build():
        common = dict(optimizer=optimizer(), epoch_length=5, warmup=7)
        return PARAM_SCHEDULERS.build(dict(schedule, convert_to_iter_based=True, end=6, **common))

    whole = rates(build(), 30)
    first, second = build(), build()
    rates(first, 11)
    second.load_state_dict(first.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert rates(second, 19) == whole[11:]


@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(milestones=[3]), r'WarmupStepLR counts iterations.*convert_to_iter_based=True'),
    (dict(milestones=[3], epoch_length=5, warmup=-1), r'param_scheduler\.warmup is -1'),
])  # fmt: skip
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        WarmupStepLR(optimizer(), **arguments)
