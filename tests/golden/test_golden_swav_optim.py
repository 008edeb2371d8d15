"""Optimiser and learning rates of the released SwAV scripts."""

import pytest
import torch
from fixtures import Golden
from mmengine.optim import _ParamScheduler

import unmix.engine  # noqa: F401  registers the schedulers
from unmix.engine.optimizers import LARC
from unmix.registry import PARAM_SCHEDULERS


@pytest.mark.golden('c10_larc*')
def test_larc(golden: Golden) -> None:
    hp = golden.hp
    arguments = {key: hp[key] for key in ('lr', 'momentum', 'weight_decay', 'trust_coefficient', 'eps')}
    names = list(golden.named('in_p_'))
    for mode in ('noclip', 'clip'):
        parameters = {name: golden.tensor(f'in_p_{name}').clone().requires_grad_() for name in names}
        optimizer = LARC(parameters.values(), **arguments, clip=mode == 'clip')
        for step in range(len(golden['in_g_' + next(name for name in names if f'in_g_{name}' in golden)])):
            for name, parameter in parameters.items():
                parameter.grad = golden.tensor(f'in_g_{name}')[step].clone() if f'in_g_{name}' in golden else None
            optimizer.step()
            for name, parameter in parameters.items():
                golden.check(parameter, f'{mode}_p_{name}', step)


@pytest.mark.golden('c10_lr_schedule*')
def test_schedule(golden: Golden) -> None:
    for i, hp in enumerate(golden.hp['configs']):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=hp['base_lr'])
        config = dict(
            type='RampCosineLR',
            warmup=hp['warmup_epochs'],
            warmup_lr=hp['start_warmup'],
            eta_min=hp['final_lr'],
            end=hp['epochs'],
            convert_to_iter_based=True,
        )
        scheduler: _ParamScheduler = PARAM_SCHEDULERS.build(
            config, default_args=dict(optimizer=optimizer, epoch_length=hp['n_iter'])
        )
        rates = []
        for _ in range(hp['epochs'] * hp['n_iter']):
            rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            scheduler.step()
        golden.compare(rates, golden[f'lr_{i}'], f'lr_{i}')
