"""htdt's BYOL: loss in both forms, gradients, BatchNorm statistics, momentum."""

import pytest
import torch
from fixtures import Golden
from networks import GoldenFeatures

from unmix.models import BYOL, CosineHead


def build(golden: Golden, normalize: bool, momentum: float) -> BYOL:
    dim, in_dim = golden['in_head.weight'].shape
    hidden_dim = len(golden['in_pred.0.bias'])
    model = BYOL(
        backbone=dict(type=GoldenFeatures),
        neck=dict(type='LinearNeck', in_dim=in_dim, out_dim=dim),
        predictor=dict(type='MLPNeck', in_dim=dim, hidden_dim=hidden_dim, out_dim=dim, norm=True, hidden_bias=True),
        head=dict(type='CosineHead', normalize=normalize),
        momentum=momentum,
        num_views=golden.hp['num_views'],
    ).to(**golden.factory)
    load(model.predictor.layers, golden, 'in_pred.')
    load(model.neck.fc, golden, 'in_head.')
    load(model.momentum_encoder.neck.fc, golden, 'in_head_t.')
    return model


def load(module: torch.nn.Module, golden: Golden, prefix: str) -> None:
    state = {name: golden.tensor(prefix + name) for name in golden.named(prefix)}
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected
    assert all('running' in name or 'tracked' in name for name in missing)


@pytest.mark.golden('c13_byol*')
@pytest.mark.parametrize('form', ['norm', 'mse'])
def test_loss(golden: Golden, form: str) -> None:
    model = build(golden, form == 'norm', momentum=1.0)
    views = [view[:, :, None, None].requires_grad_() for view in golden.tensor('in_x')]
    loss = model.loss(views)['loss_base']
    loss.backward()
    golden.check(loss, f'{form}_loss')
    golden.check(torch.stack([view.grad for view in views])[:, :, :, 0, 0], f'{form}_grad_x')
    for prefix, module in (('pred.', model.predictor.layers), ('head.', model.neck.fc)):
        for name, parameter in module.named_parameters():
            golden.check(parameter.grad, f'{form}_grad_{prefix}{name}')
    golden.check(model.predictor.layers[1].running_mean, 'bn_running_mean')
    golden.check(model.predictor.layers[1].running_var, 'bn_running_var')


@pytest.mark.golden('c13_byol*')
def test_momentum(golden: Golden) -> None:
    model = build(golden, True, momentum=golden.hp['tau0'])
    for i, progress in enumerate(golden.hp['progress']):
        model.current_momentum = lambda progress=progress: model.momentum_at(progress)
        model.move_momentum_encoder()
        golden.check(model.momentum_encoder.neck.fc.weight, 'ema_head_t', i)


@pytest.mark.golden('c13_byol*')
def test_cosine_head(golden: Golden) -> None:
    features = [golden.tensor(f'in_nm_x{i}').requires_grad_() for i in range(2)]
    loss = CosineHead()(*features)
    golden.check(loss, 'nm_loss')
    for i, gradient in enumerate(torch.autograd.grad(loss, features)):
        golden.check(gradient, f'nm_grad{i}')
