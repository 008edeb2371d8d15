"""LARC against the formula parameter by parameter; what it leaves alone; the table of learning rates."""

import pytest
import torch

from unmix.engine.optimizers import LARC
from unmix.engine.schedulers import RampCosineLR


def naive_step(p, g, buffer, lr, momentum, decay, trust, eps):
    """One tensor, with Python floats."""
    if p.norm() > 0 and g.norm() > 0:
        g = (g + decay * p) * float(trust * p.norm() / (g.norm() + decay * p.norm() + eps))
    buffer = g if buffer is None else momentum * buffer + g
    return p - lr * buffer, buffer


def test_is_the_formula_as_the_learning_rate_changes():
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


def test_a_zero_parameter_takes_its_gradient_as_it_is():
    p = torch.zeros(3, requires_grad=True)
    p.grad = torch.tensor([1.0, 2.0, 3.0])
    LARC([p], lr=0.5, weight_decay=0.1).step()
    assert torch.equal(p.detach(), torch.tensor([-0.5, -1.0, -1.5]))
    assert torch.equal(p.grad, torch.tensor([1.0, 2.0, 3.0]))


def test_a_zero_gradient_moves_nothing():
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.zeros(3)
    LARC([p], lr=0.5, weight_decay=0.1).step()
    assert torch.equal(p.detach(), torch.ones(3))


def test_state_dict_goes_on_exactly():
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


def test_negative_numbers_are_refused():
    with pytest.raises(ValueError, match=r'optimizer\.eps is -1'):
        LARC([torch.ones(1, requires_grad=True)], lr=0.1, eps=-1)


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
