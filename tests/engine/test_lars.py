"""LARS beside the cases of the released code: closure, groups, resuming."""

import copy

import pytest
import torch

from unmix.engine.optimizers import LARS
from unmix.registry import OPTIMIZERS


def parameters():
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((3, 4), (4,), (2, 3, 1, 1))]


def test_step_is_the_formula():
    params = parameters()
    optimizer = OPTIMIZERS.build(dict(type='LARS', params=params, lr=0.3, weight_decay=0.01))
    weights, velocities = [p.detach().clone() for p in params], [torch.zeros_like(p) for p in params]
    for _ in range(3):
        for n, p in enumerate(params):
            p.grad = torch.randn_like(p)
            g = p.grad.clone()
            if p.ndim > 1:
                g += 0.01 * weights[n]
                g *= 0.001 * weights[n].norm() / (g.norm() + 1e-8)
            velocities[n] = 0.9 * velocities[n] + g
            weights[n] -= 0.3 * velocities[n]
        before = [p.grad.clone() for p in params]
        optimizer.step()
        for p, weight, gradient in zip(params, weights, before, strict=True):
            torch.testing.assert_close(p.detach(), weight, rtol=0, atol=1e-12)
            assert torch.equal(p.grad, gradient)


def test_resumed_equals_uninterrupted():
    params = parameters()
    optimizer = LARS(params, lr=0.3)
    loss = lambda params: sum((p**2).sum() for p in params)  # noqa: E731
    for step in range(4):
        if step == 2:
            twins = copy.deepcopy(params)
            twin = LARS(twins, lr=0.1)
            twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for group, by in ((params, optimizer), (twins, twin)) if step >= 2 else ((params, optimizer),):
            by.zero_grad()
            loss(group).backward()
            by.step()
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))


def test_parameters_without_gradient_stay():
    params = parameters()
    before = copy.deepcopy(params)
    LARS(params, lr=0.3).step()
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


def test_negative_arguments_are_refused():
    with pytest.raises(ValueError, match=r'optimizer\.lr is -1'):
        LARS(parameters(), lr=-1.0)
