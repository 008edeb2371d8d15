"""htdt's whitening, and W-MSE with recorded sub-batches."""

import numpy as np
import pytest
import torch
from fixtures import Golden
from networks import GoldenFeatures

from unmix.models import WMSE, Whitening


@pytest.mark.golden('c13_whitening*')
def test_whitening(golden: Golden) -> None:
    """Steps of training, then one of evaluation, with running statistics; and one step without."""
    x, gradient = golden.tensor('in_x'), golden.tensor('in_gy')
    for i, eps in enumerate(golden.hp['eps']):
        module = Whitening(x.shape[2], eps, golden.hp['momentum']).to(**golden.factory)
        for step in range(len(x)):
            module.train(step < len(x) - 1)
            features = x[step].clone().requires_grad_()
            y = module(features)
            y.backward(gradient[step])
            expected = dict(y=y, gx=features.grad, rm=module.running_mean, rc=module.running_cov)
            for name, value in expected.items():
                golden.check(value, f'e{i}_{name}', step)
        features = x[0].clone().requires_grad_()
        y = Whitening(x.shape[2], eps, track_running_stats=False)(features)
        y.backward(gradient[0])
        golden.check(y, f'notrack{i}_y')
        golden.check(features.grad, f'notrack{i}_gx')


@pytest.mark.golden('c13_wmse*')
@pytest.mark.parametrize('form', ['norm', 'mse'])
def test_wmse(golden: Golden, form: str) -> None:
    hp, x = golden.hp, golden.tensor('in_x')
    for draws in hp['w_iters']:
        model = WMSE(
            backbone=dict(type=GoldenFeatures),
            head=dict(type='WMSEHead', sub_batch=hp['w_size'], draws=draws, eps=hp['eps'], normalize=form == 'norm'),
            num_views=hp['num_views'],
            joint_neck=True,
        ).to(**golden.factory)
        model.head.permutations = lambda size, draws=draws: np.stack(list(golden['perms'][:draws]))
        views = [view[:, :, None, None].requires_grad_() for view in x]
        loss = model.loss(views)['loss_base']
        golden.check(loss, f'iter{draws}_{form}_loss')
        gradients = torch.stack(torch.autograd.grad(loss, views))[:, :, :, 0, 0]
        golden.check(gradients, f'iter{draws}_{form}_grad')
