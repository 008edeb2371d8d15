"""LeJEPA against Alg. 1 and 2 of the paper in loops, closed forms, and the views that its regulariser sees."""

import math

import numpy as np
import pytest
import torch
from algorithms_under_test import ALGORITHMS, METHODS
from torch import Tensor

from unmix.models import LeJEPAHead
from unmix.registry import MODELS
from unmix.testing.method import record
from unmix.utils.clock import Step


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def naive_distance(view: list[list[float]], directions: list[list[float]]) -> float:
    """SIGReg of one view, number by number, as released: 17 points from 0 to 3, with the even integrand doubled."""
    n, step, total = len(view), 3 / 16, 0.0
    for direction in directions:
        for k in range(17):
            t = k * step
            angles = [t * sum(x * u for x, u in zip(row, direction, strict=True)) for row in view]
            cosine, sine, phi = sum(map(math.cos, angles)) / n, sum(map(math.sin, angles)) / n, math.exp(-t * t / 2)
            weight = (step if k in (0, 16) else 2 * step) * phi
            total += n * weight * ((cosine - phi) ** 2 + sine**2)
    return total / len(directions)


def test_regulariser_is_that_of_loops_view_by_view() -> None:
    """On flattened views the statistic would be another: of the mean of their characteristic functions."""
    a, b = features(2, 6, 4)
    b = 3 * b + 1
    head = LeJEPAHead(weight=0.1, directions=3)
    directions = head.draw(a).T.tolist()
    expected = 0.1 * sum(naive_distance(view.tolist(), directions) for view in (a, b)) / 2
    assert head.regulariser({0: a, 1: b}).item() == pytest.approx(expected, abs=1e-10)
    flattened = 0.1 * naive_distance(torch.cat([a, b]).tolist(), directions)
    assert abs(flattened - expected) > 0.01 * expected


def test_one_point_and_a_gaussian() -> None:
    """All features 0: n times the integral of (1 - phi)^2 phi. Gaussian samples: what chance leaves, on average."""
    from scipy.integrate import quad

    integral, _ = quad(lambda s: (1 - math.exp(-s * s / 2)) ** 2 * math.exp(-s * s / 2), -3, 3)
    head = LeJEPAHead(weight=1.0, directions=64, knots=1001)
    assert head.regulariser({0: torch.zeros(6, 4, dtype=torch.float64)}).item() == pytest.approx(6 * integral, rel=1e-6)
    # Of n samples the mean of |phi_n - phi|^2 is (1 - phi^2) / n; 200 views of 50 samples.
    chance, _ = quad(lambda s: (1 - math.exp(-s * s)) * math.exp(-s * s / 2), -3, 3)
    views = dict(enumerate(features(200, 50, 4)))
    head = LeJEPAHead(weight=1.0, directions=4, knots=33)
    assert head.regulariser(views).item() == pytest.approx(chance, rel=0.15)


def test_directions_are_unit_and_of_the_step() -> None:
    head = LeJEPAHead(directions=50)
    draws = []
    for iteration in (0, 0, 1):
        head.step = Step(iteration=iteration)
        draws.append(head.draw(features(2, 4)))
    torch.testing.assert_close(draws[0].norm(dim=0), torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_step_of_three_views_and_the_mixture() -> None:
    """Alg. 1: (1 - lambda) invariance to the centre of the large views + lambda SIGReg of each view.

    SIGReg counts once for the views and once for the mixture.
    """
    method = METHODS['lejepa']
    model = method.build(method.unmix)
    seen = record(model)
    losses = model.loss(method.views())
    views = [seen.queries[i].detach().numpy() for i in range(3)]
    centre = (views[0] + views[1]) / 2
    invariance = np.mean([(view - centre) ** 2 for view in views])
    assert losses['loss_base'].item() == pytest.approx(0.95 * invariance, abs=1e-10)
    directions = model.head.draw(seen.queries[0]).T.tolist()
    spread = np.mean([naive_distance(view.tolist(), directions) for view in views])
    assert losses['loss_regulariser'].item() == pytest.approx(2 * 0.05 * spread, abs=1e-10)
    mixed, lam = seen.queries['mixture'].detach().numpy(), seen.lam
    pair = lam * np.mean((mixed - centre) ** 2) + (1 - lam) * np.mean((mixed[::-1] - centre) ** 2)
    assert losses['loss_unmix'].item() == pytest.approx(0.95 * pair, abs=1e-10)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match=r'head\.weight is 1\.5'):
        LeJEPAHead(weight=1.5)
    with pytest.raises(ValueError, match=r'model\.num_global is 4 and model\.num_views 3'):
        MODELS.build(dict(ALGORITHMS['lejepa'], num_global=4))
