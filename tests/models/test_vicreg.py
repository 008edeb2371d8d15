"""VICReg against Alg. 1 of the paper in loops, closed forms, and the mixture that its regulariser does not see."""

import math

import pytest
import torch
from algorithms_under_test import METHODS
from torch import Tensor

from unmix.models import VICRegHead
from unmix.testing.method import record


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive_regulariser(view: list[list[float]], variance: float, covariance: float, eps: float) -> float:
    """Half of the variance term and the covariance term of one view, number by number, as released."""
    n, dims = len(view), range(len(view[0]))
    mean = [sum(row[d] for row in view) / n for d in dims]
    cov = [[sum((row[d] - mean[d]) * (row[e] - mean[e]) for row in view) / (n - 1) for e in dims] for d in dims]
    apart = sum(max(0.0, 1 - math.sqrt(cov[d][d] + eps)) for d in dims) / len(dims)
    correlated = sum(cov[d][e] ** 2 for d in dims for e in dims if d != e) / len(dims)
    return variance * apart / 2 + covariance * correlated


@pytest.mark.parametrize('scale', [0.3, 1.0, 3.0])
def test_losses_are_those_of_loops(scale: float) -> None:
    a, b = scale * features(2, 7, 4)
    head = VICRegHead(invariance=2.0, variance=3.0, covariance=0.5)
    pair = 2.0 * sum((x - y) ** 2 for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)) / a.numel()
    assert head(a, b).item() == pytest.approx(pair, abs=1e-10)
    expected = sum(naive_regulariser(view.tolist(), 3.0, 0.5, 1e-4) for view in (a, b))
    assert head.regulariser({0: a, 1: b}).item() == pytest.approx(expected, abs=1e-10)


def test_spread_and_uncorrelated_features_are_not_penalised() -> None:
    """Columns of a Hadamard matrix have variance n / (n - 1) and no covariance; one point has the whole penalty."""
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    head = VICRegHead()
    assert head.regulariser({0: signs}).item() == pytest.approx(0, abs=1e-12)
    assert head.regulariser({0: torch.ones_like(signs)}).item() == pytest.approx(25 * (1 - 0.01), abs=1e-12)


@pytest.mark.parametrize(('weight', 'replaced', 'times'), [(1.0, False, 2.0), (0.5, False, 1.5), (1.0, True, 1.0)])
def test_the_mixture_enters_the_pair_term_only(weight: float, replaced: bool, times: float) -> None:
    """A mixture of independent images has lam^2 + (1 - lam)^2 of the variance, which no term holds against it.

    The regulariser of the clean views has the weight of all pairs.
    """
    method = METHODS['vicreg']
    model = method.build({**(method.unmix or {}), 'loss_weight': weight, 'replace': replaced})
    seen = record(model)
    losses = model.loss(method.views())
    lam, q1, mixed = seen.lam, seen.queries[1], seen.queries['mixture']
    clean = [seen.queries[i] for i in (0, 1) if i in seen.queries]
    assert len(clean) == 2 - replaced
    naive = 2 * sum(naive_regulariser(view.tolist(), 25.0, 1.0, 1e-4) for view in clean) / len(clean)
    assert losses['loss_regulariser'].item() == pytest.approx(times * naive, abs=1e-10)
    reverse = torch.stack([mixed[len(mixed) - 1 - n] for n in range(len(mixed))])
    pair = weight * 25 * (lam * (mixed - q1).square().mean() + (1 - lam) * (reverse - q1).square().mean())
    torch.testing.assert_close(losses['loss_unmix'], pair, rtol=0, atol=1e-10)


def test_variance_of_a_mixture() -> None:
    a, b, lam = features(200_000), features(200_000, seed=1), 0.3
    assert (lam * a + (1 - lam) * b).var().item() == pytest.approx(lam**2 + (1 - lam) ** 2, rel=0.02)
