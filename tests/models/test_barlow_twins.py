"""Barlow Twins against Alg. 1 of the paper in loops, closed forms, and what ranks share."""

import math

import pytest
import torch
from algorithms_under_test import METHODS
from torch import Tensor

from unmix.models import BarlowTwinsHead
from unmix.models.algorithms import base


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def naive(a: list[list[float]], b: list[list[float]], off_diagonal: float, eps: float = 1e-5) -> float:
    """Number by number."""
    n, dims = len(a), range(len(a[0]))

    def standardise(x: list[list[float]]) -> list[list[float]]:
        mean = [sum(row[d] for row in x) / n for d in dims]
        variance = [sum((row[d] - mean[d]) ** 2 for row in x) / n for d in dims]
        return [[(row[d] - mean[d]) / math.sqrt(variance[d] + eps) for d in dims] for row in x]

    a, b = standardise(a), standardise(b)
    c = [[sum(p[d] * q[e] for p, q in zip(a, b, strict=True)) / n for e in dims] for d in dims]
    others = sum(c[d][e] ** 2 for d in dims for e in dims if d != e)
    return sum((1 - c[d][d]) ** 2 for d in dims) + off_diagonal * others


def test_loss_is_that_of_loops() -> None:
    a, b = 3 * features(2, 7, 4) + 1
    loss = BarlowTwinsHead(off_diagonal=0.2)(a, b).item()
    assert loss == pytest.approx(naive(a.tolist(), b.tolist(), 0.2), abs=1e-10)


def test_uncorrelated_dimensions_have_no_loss_whatever_their_scale() -> None:
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    head = BarlowTwinsHead(eps=0.0)
    assert head(signs, 5 * signs + 2).item() == pytest.approx(0, abs=1e-12)
    # All dimensions are the same one: no loss on the diagonal, and D (D - 1) beside it.
    assert head(signs[:, :1].expand(4, 3), signs[:, :1].expand(4, 3)).item() == pytest.approx(6 * 0.0051, abs=1e-12)


@pytest.mark.parametrize(
    ('name', 'same'), [('barlow-twins', True), ('wmse', True), ('vicreg', False), ('simclr', False)]
)
def test_ranks_draw_the_same_mixture_where_the_loss_is_of_one_batch(
    name: str, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share of a rank weights the samples of all of them there."""
    method, shares = METHODS[name], []
    model = method.build(method.unmix)
    for rank in range(2):
        monkeypatch.setattr(base, 'get_rank', lambda rank=rank: rank)
        shares.append(model.mix(method.views())[1])
    assert (shares[0] == shares[1]) is same
