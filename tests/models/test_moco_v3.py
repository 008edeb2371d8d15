"""MoCo v3 against Alg. 1 of the paper in loops, and both directions of its mixture."""

import math

import pytest
import torch
from algorithms_under_test import METHODS
from torch import Tensor

from unmix.models import MoCoV3Head
from unmix.testing.method import record


def naive(queries: Tensor, keys: Tensor, temperature: float) -> float:
    """``ctr(q, k)``, number by number; rows of any length."""

    def cosine(a: list[float], b: list[float]) -> float:
        lengths = math.hypot(*a) * math.hypot(*b)
        return sum(x * y for x, y in zip(a, b, strict=True)) / lengths

    loss, rows, others = 0.0, queries.tolist(), keys.tolist()
    for n, query in enumerate(rows):
        logits = [cosine(query, key) / temperature for key in others]
        loss += math.log(sum(math.exp(logit) for logit in logits)) - logits[n]
    return 2 * temperature * loss / len(rows)


@pytest.mark.parametrize('temperature', [0.2, 1.0])
def test_loss_is_that_of_loops(temperature: float) -> None:
    q, k = torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q, k = 3 * q, k / 2
    assert MoCoV3Head(temperature)(q, k).item() == pytest.approx(naive(q, k, temperature), abs=1e-10)


def test_features_that_are_the_same_for_all_images() -> None:
    """2 T ln(G)."""
    point = torch.ones(7, 5, dtype=torch.float64)
    assert MoCoV3Head(0.2)(point, point).item() == pytest.approx(0.4 * math.log(7), abs=1e-12)


def test_a_step_has_both_directions_of_views_and_mixture() -> None:
    method = METHODS['moco-v3']
    model = method.build(method.unmix)
    seen = record(model)
    losses = model.loss(method.views())
    lam, (q0, q1, mixed), keys = seen.lam, (seen.queries[view] for view in (0, 1, 'mixture')), seen.targets
    assert losses['loss_base'].item() == pytest.approx(naive(q0, keys[1], 0.5) + naive(q1, keys[0], 0.5), abs=1e-10)
    expected = 0.0
    for share, order in ((lam, 1), (1 - lam, -1)):
        indices = list(range(len(mixed)))[::order]
        expected += share * (naive(mixed[indices], keys[1], 0.5) + naive(q1, keys['mixture'][indices], 0.5))
    assert losses['loss_unmix'].item() == pytest.approx(expected, abs=1e-10)
