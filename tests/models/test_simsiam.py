"""SimSiam against Algorithm 1 of the paper, written down naively."""

import copy

import pytest
import torch
from algorithms_under_test import ALGORITHMS
from torch import Tensor

from unmix.models import SimCLR
from unmix.registry import MODELS


def predict(model: SimCLR, z: Tensor) -> list[Tensor]:
    """The predictor, image by image; BatchNorm written out."""
    first, norm, _, last = model.head.predictor
    hidden = torch.stack([first.weight @ row for row in z])
    mean = sum(hidden) / len(z)
    variance = sum((row - mean) ** 2 for row in hidden) / len(z)
    rows = [norm.weight * (row - mean) / (variance + norm.eps).sqrt() + norm.bias for row in hidden]
    return [last.weight @ row.clamp(min=0) + last.bias for row in rows]


def simsiam(model: SimCLR, x0: Tensor, x1: Tensor) -> Tensor:
    """Algorithm 1 of the paper, image by image."""
    z0, z1 = (model.neck(model.backbone(x)) for x in (x0, x1))
    loss = torch.zeros((), dtype=torch.float64)
    for predictions, targets in ((predict(model, z0), z1.detach()), (predict(model, z1), z0.detach())):
        for p, z in zip(predictions, targets, strict=True):
            loss = loss - (p @ z) / (p.norm() * z.norm()) / 2
    return loss / len(x0)


@pytest.mark.parametrize('unmix', [None, dict(type='UnMix')], ids=['plain', 'unmix'])
def test_three_steps_are_those_of_the_paper(unmix: dict | None) -> None:
    """With Un-Mix the naive form calls the whole loss of SimSiam three times, and encodes the mixture twice."""
    model = MODELS.build(dict(ALGORITHMS['simsiam'], unmix=unmix)).double()
    naive = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3) for m in (model, naive)]
    mixtures = []
    if unmix:
        mix = model.unmix.mix
        model.unmix.mix = lambda view, rng: mixtures.append(mix(view, rng)) or mixtures[-1]
    for _ in range(3):
        x0, x1 = torch.randn(2, 6, 3, 8, 8, dtype=torch.float64)
        loss = sum(model.loss([x0, x1]).values())
        expected = simsiam(naive, x0, x1)
        if unmix:
            mixture, lam = mixtures[-1]
            expected = expected + lam * simsiam(naive, mixture, x1) + (1 - lam) * simsiam(naive, mixture.flip(0), x1)
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
        for optimizer, term in zip(optimizers, (loss, expected), strict=True):
            optimizer.zero_grad()
            term.backward()
            optimizer.step()
        model.after_step()
    for (key, ours), theirs in zip(model.named_parameters(), naive.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10, msg=key)
