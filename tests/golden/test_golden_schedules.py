"""Learning rates of the released training loops, through the project's schedulers."""

import pytest
import torch
from fixtures import Golden
from mmengine.optim import _ParamScheduler

import unmix.engine  # noqa: F401  registers CosineLR
from unmix.registry import PARAM_SCHEDULERS


def learning_rates(config: dict, lr: float, num: int) -> list[float]:
    """The learning rate of each of ``num`` epochs."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler: _ParamScheduler = PARAM_SCHEDULERS.build(dict(config, optimizer=optimizer))
    rates = []
    for _ in range(num):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.golden('c04_lr_schedules*')
def test_moco_schedules(golden: Golden) -> None:
    for i, hp in enumerate(golden.hp['configs']):
        first = 1 if hp['fn'].startswith('unmix_c') else 0  # how the script counts its epochs
        if hp['cos']:
            config = dict(type='CosineLR', T_max=hp['epochs'], first_epoch=first)
        else:
            config = dict(type='MultiStepLR', milestones=[epoch - first for epoch in hp['schedule']], gamma=0.1)
        golden.compare(learning_rates(config, hp['lr'], hp['epochs']), golden[f'lr_{i}'], f'lr_{i}')
