"""Whole optimisation steps of MoCo and Un-Mix MoCo: weights, BatchNorm statistics, momentum encoder, queue."""

import pytest
import torch
from fixtures import Golden, Recorded
from networks import build_moco, expected_state, recorded_mixing, replay


@pytest.mark.golden('c04_step_moco_vanilla*', 'c04_step_unmix_*')
def test_steps(golden: Golden) -> None:
    hp = golden.hp
    unmix = dict(type='UnMix', replay_bn_stats=True, mixing=dict(type='RandomMixing', prob=hp['prob']))
    symmetric = hp.get('symmetric', False)
    model = build_moco(golden, unmix if 'r' in golden else None, symmetric, momentum=hp['m'])
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=hp['lr'], momentum=hp['sgd_momentum'], weight_decay=hp['weight_decay'])
    images = golden.tensor('img_u8')
    for step in range(len(images)):
        optimizer.param_groups[0]['lr'] = float(golden['lr'][step])
        permutations = golden['perms'][step]
        replay(model, recorded_mixing(golden, step), Recorded(permutation=permutations.reshape(-1, images.shape[2])))
        losses = model.loss(list(images[step]))
        total = sum(losses.values())
        golden.check(total, 'total', step)
        clean = golden.arrays[golden.prefix + 'terms'][step].reshape(len(model.pairs), -1)[:, 0].sum()
        golden.compare(losses['loss_base'], clean, f'terms[{step}]')
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
            for name, expected in expected_state(golden, golden.prefix + 'g1_'):
                golden.compare(gradients[name], expected, f'g1_{name}')
        optimizer.step()
        # The release moves the momentum encoder before the keys are encoded: not after the last step.
        model.after_step(stepped=step < len(images) - 1)
    state = model.state_dict()
    expected = dict(expected_state(golden, golden.prefix + 'final_'))
    assert expected.keys() == state.keys()
    for name, array in expected.items():
        golden.compare(state[name], array, f'final_{name}')
