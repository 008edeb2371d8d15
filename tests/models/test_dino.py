"""DINO against Alg. 1 of the paper in loops; its centre, temperatures, multi-crop, mixture and last layer."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from algorithms_under_test import ALGORITHMS, METHODS
from torch import Tensor, nn

from unmix.models import DINO, DINOHead, DINONeck
from unmix.registry import MODELS
from unmix.testing.method import backward, record, sgd
from unmix.utils.clock import Step


def softmax(row: list[float], temperature: float) -> list[float]:
    top = max(row)
    exponentials = [math.exp((x - top) / temperature) for x in row]
    return [x / sum(exponentials) for x in exponentials]


def naive(student: Tensor, teacher: Tensor, center: list[float], sharp: float, soft: float = 0.1) -> float:
    """``H(t, s)``, number by number."""
    loss = 0.0
    for s, t in zip(student.tolist(), teacher.tolist(), strict=True):
        target = softmax([x - c for x, c in zip(t, center, strict=True)], sharp)
        loss -= sum(p * math.log(q) for p, q in zip(target, softmax(s, soft), strict=True))
    return loss / len(student)


def test_loss_is_that_of_loops() -> None:
    s, t, c = torch.randn(3, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    head = DINOHead(5, teacher_temperature=0.05).double()
    head.center = c[0]
    assert head(s, t).item() == pytest.approx(naive(s, t, c[0].tolist(), 0.05), abs=1e-10)


def test_a_step_of_three_crops_and_the_mixture() -> None:
    """Two large crops are targets; the mixture of crop 0 is a query and a target in its place."""
    method = METHODS['dino']
    config = dict(method.config, num_targets=2, unmix=dict(type='UnMix'))
    torch.manual_seed(0)
    model = MODELS.build(config).double()
    seen = record(model)
    losses = model.loss(method.views())
    s, lam, zero = seen.queries, seen.lam, [0.0] * 9
    t0, t1, tm = (seen.targets[view] for view in (0, 1, 'mixture'))
    assert model.pairs == ((1, 0), (2, 0), (0, 1), (2, 1))
    base = [naive(s[1], t0, zero, 0.04), naive(s[2], t0, zero, 0.04), naive(s[0], t1, zero, 0.04)]
    assert losses['loss_base'].item() == pytest.approx(sum([*base, naive(s[2], t1, zero, 0.04)]) / 4, abs=1e-10)
    mixed = 0.0
    for share, order in ((lam, [*range(6)]), (1 - lam, [*range(6)][::-1])):
        mixed += share * naive(s['mixture'][order], t1, zero, 0.04)
        mixed += share * sum(naive(s[i], tm[order], zero, 0.04) for i in (1, 2))
    assert losses['loss_unmix'].item() == pytest.approx(mixed / 3, abs=1e-10)


def test_mixture_predicts_the_mixed_target() -> None:
    """``lam H(t, s) + (1 - lam) H(t', s) = H(lam t + (1 - lam) t', s)``."""
    s, t = torch.randn(2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    head, lam = DINOHead(5).double(), 0.3
    ours = lam * head(s, t) + (1 - lam) * head(s.flip(0), t)
    target = lam * head.prepare(t) + (1 - lam) * head.prepare(t).flip(0)
    torch.testing.assert_close(ours, head.terms(s, target), rtol=0, atol=1e-12)


def test_temperature_of_the_teacher_is_the_released_table() -> None:
    """``np.linspace(0.04, 0.07, 30)``, then 0.07: a function of the epoch alone."""
    head = DINOHead(3, teacher_temperature=0.07, warmup_temperature=0.04, warmup_epochs=30)
    table = [*np.linspace(0.04, 0.07, 30), *[0.07] * 20]
    values = []
    for epoch in range(50):
        head.step = Step(epoch=epoch)
        values.append(head.target_temperature())
    assert values == pytest.approx(table, abs=1e-15)


def test_last_layer_is_weight_normalised_with_constant_length() -> None:
    """Outputs and gradients are those of PyTorch's weight_norm with a length of 1."""
    torch.manual_seed(0)
    neck = DINONeck(4, 6, 3, 5).double()
    last: Any = nn.Linear(3, 5, bias=False).double()
    last.weight.data = neck.last.weight.data.clone()
    last = nn.utils.parametrizations.weight_norm(last)
    last.parametrizations.weight.original0.data.fill_(1)
    x = torch.randn(7, 4, dtype=torch.float64)
    ours, theirs = neck(x), last(nn.functional.normalize(neck.layers(x).detach(), dim=1))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    (ours**3).sum().backward()
    (theirs**3).sum().backward()
    expected = last.parametrizations.weight.original1.grad
    torch.testing.assert_close(neck.last.weight.grad, expected, rtol=0, atol=1e-12)


def test_batch_norm_follows_the_hidden_layers_only() -> None:
    """``use_bn_in_head``: linear, BatchNorm, GELU, as often as there are hidden layers, then the bottleneck."""
    plain, normed = DINONeck(4, 6, 3, 5), DINONeck(4, 6, 3, 5, norm=True)
    hidden = [nn.Linear, nn.BatchNorm1d, nn.GELU]
    assert [type(layer) for layer in normed.layers] == [*hidden, *hidden, nn.Linear]
    assert [type(layer) for layer in plain.layers] == [nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear]


def test_last_layer_does_not_learn_in_the_first_epoch() -> None:
    model = MODELS.build(dict(ALGORITHMS['dino'], freeze_epochs=1)).double()
    optimizer, before = sgd(model), model.neck.last.weight.detach().clone()
    assert isinstance(model, DINO)
    for moved in (False, True):
        backward(model.loss(METHODS['dino'].views()))
        model.step = Step(epoch=int(moved))  # a Runner's clock says so
        model.before_step()
        optimizer.step()
        model.after_step()
        optimizer.zero_grad()
        assert torch.equal(model.neck.last.weight, before) is not moved


def test_too_many_targets_are_refused() -> None:
    with pytest.raises(ValueError, match=r'model\.num_targets is 4 and model\.num_views 3'):
        MODELS.build(dict(ALGORITHMS['dino'], num_targets=4))
