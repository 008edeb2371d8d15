"""SimCLR, and what it shares with BYOL and W-MSE: Un-Mix against literal calls of the method, ranks, bad input."""

import copy

import pytest
import torch
from algorithms_under_test import ALGORITHMS

from unmix.registry import MODELS

METHODS = ['simclr', 'simclr-joint', 'byol', 'wmse']


def build(name, **changes):
    torch.manual_seed(0)
    return MODELS.build(dict(ALGORITHMS[name], **changes)).double()


def views(seed=0, size=6, num_views=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, 8, 8, dtype=torch.float64, generator=generator) for _ in range(num_views)]


@pytest.mark.parametrize('name', METHODS)
def test_unmix_is_three_calls_of_the_method(name):
    """``F([x0, x1]) + lam F([m, x1]) + (1 - lam) F([reverse(m), x1])``, with gradients, from one encoding of m."""
    model = build(name, unmix=dict(type='UnMix'))
    plain = copy.deepcopy(model)
    plain.unmix = None
    x0, x1 = views()
    mixed = []
    mix = model.unmix.mix
    model.unmix.mix = lambda view, rng: mixed.append(mix(view, rng)) or mixed[0]
    losses = model.loss([x0, x1])
    sum(losses.values()).backward()
    (m, lam), total = mixed[0], 0
    for weight, view in ((1.0, x0), (lam, m), (1 - lam, m.flip(0))):
        total = total + weight * plain.loss([view, x1])['loss_base']
        plain.discard_step()  # so that each call has the first step's sub-batches
    torch.testing.assert_close(sum(losses.values()), total, rtol=0, atol=1e-12)
    total.backward()
    for (key, parameter), reference in zip(model.named_parameters(), plain.parameters(), strict=True):
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, reference.grad, rtol=0, atol=1e-10, msg=key)


def test_a_joint_neck_normalises_all_views_at_once():
    model = build('simclr-joint')
    norm = model.neck.layers[1]
    seen = []
    norm.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[0]))
    model.loss(views())
    assert seen == [12]


def test_the_number_of_views_must_fit():
    with pytest.raises(ValueError, match=r'model\.num_views is 2, but the data set delivers 3 views'):
        build('simclr').loss(views(num_views=3))
    with pytest.raises(ValueError, match=r'model\.num_views is 1'):
        build('simclr', num_views=1)
