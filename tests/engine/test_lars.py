"""LARS and LARC against their formulas; what they leave alone; resuming."""

import copy

import pytest
import torch

from unmix.engine.optimizers import LARC, LARS
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


def naive_step(p, g, buffer, lr, momentum, decay, trust, eps):
    """One tensor, with Python floats."""
    if p.norm() > 0 and g.norm() > 0:
        g = (g + decay * p) * float(trust * p.norm() / (g.norm() + decay * p.norm() + eps))
    buffer = g if buffer is None else momentum * buffer + g
    return p - lr * buffer, buffer


def test_larc_is_the_formula_as_the_learning_rate_changes():
    parameters = [torch.randn(4, 3).double(), torch.zeros(5).double(), torch.randn(2).double()]
    ours = [p.clone().requires_grad_() for p in parameters]
    optimizer = LARC(ours, lr=1.0, momentum=0.9, weight_decay=0.1, trust_coefficient=0.02)
    buffers = [None] * 3
    for lr in (0.3, 0.5, 0.1):
        optimizer.param_groups[0]['lr'] = lr
        for i, p in enumerate(ours):
            p.grad = torch.randn_like(p)
            parameters[i], buffers[i] = naive_step(parameters[i], p.grad, buffers[i], lr, 0.9, 0.1, 0.02, 1e-8)
        optimizer.step()
        for p, expected in zip(ours, parameters, strict=True):
            torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-14)


def test_larc_of_a_zero_parameter_takes_the_gradient_as_it_is():
    p = torch.zeros(3, requires_grad=True)
    p.grad = torch.tensor([1.0, 2.0, 3.0])
    LARC([p], lr=0.5, weight_decay=0.1).step()
    assert torch.equal(p.detach(), torch.tensor([-0.5, -1.0, -1.5]))
    assert torch.equal(p.grad, torch.tensor([1.0, 2.0, 3.0]))


def test_larc_of_a_zero_gradient_moves_nothing():
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.zeros(3)
    LARC([p], lr=0.5, weight_decay=0.1).step()
    assert torch.equal(p.detach(), torch.ones(3))


def test_larc_resumed_equals_uninterrupted():
    def steps(optimizer, p, seed):
        generator = torch.Generator().manual_seed(seed)
        p.grad = torch.randn(3, generator=generator)
        optimizer.step()

    whole, half = (torch.ones(3, requires_grad=True) for _ in range(2))
    one, two = LARC([whole], lr=0.5), LARC([half], lr=0.5)
    steps(one, whole, 0), steps(two, half, 0)
    resumed = half.detach().clone().requires_grad_()
    three = LARC([resumed], lr=0.1)
    three.load_state_dict(two.state_dict())
    steps(one, whole, 1), steps(three, resumed, 1)
    assert torch.equal(whole, resumed)


def test_larc_refuses_negative_numbers():
    with pytest.raises(ValueError, match=r'optimizer\.eps is -1'):
        LARC([torch.ones(1, requires_grad=True)], lr=0.1, eps=-1)
