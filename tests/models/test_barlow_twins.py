"""Barlow Twins against Alg. 1 of the paper in loops, closed forms, and what ranks share."""

import math
from dataclasses import replace

import pytest
import torch
from algorithms_under_test import METHODS
from torch import Tensor

from unmix.models import BarlowTwinsHead
from unmix.models.algorithms import base
from unmix.testing.method import record


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


def correlation(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    """As the release computes it, with the biased deviation."""
    n, dims = len(a), range(len(a[0]))
    mean = [[sum(row[d] for row in x) / n for d in dims] for x in (a, b)]
    deviation = [
        [math.sqrt(sum((row[d] - m[d]) ** 2 for row in x) / n + 1e-5) for d in dims]
        for x, m in zip((a, b), mean, strict=True)
    ]
    return [
        [
            sum(
                (p[d] - mean[0][d]) / deviation[0][d] * (q[e] - mean[1][e]) / deviation[1][e]
                for p, q in zip(a, b, strict=True)
            )
            / n
            for e in dims
        ]
        for d in dims
    ]


@pytest.mark.parametrize('partner', ['reverse', 'random'])
def test_mixed_barlow_twins_is_its_published_step(partner: str) -> None:
    """Four cross-correlations, number by number; the mixture holds view 0 and the partners' view 1."""
    method = METHODS['mixed-barlow-twins']
    model = method.build(dict(type='UnMix', mixing=dict(type='Mixup'), partner=partner, loss_weight=4.0))
    seen = record(model)
    losses = model.loss(method.views(), method.index)
    lam, first, second = seen.lam, *seen.views
    rest = [(m - lam * x) / (1 - lam) for m, x in zip(seen.mixture, first, strict=True)]
    order = [min(range(6), key=lambda k: float((r - second[k]).abs().max())) for r in rest]
    assert sorted(order) == list(range(6))
    assert partner == 'random' or order == [5, 4, 3, 2, 1, 0]
    one, two, mixed = (seen.queries[view].tolist() for view in (0, 1, 'mixture'))
    assert [math.hypot(*row) for row in one] == pytest.approx([1] * 6, abs=1e-12)
    others = [two[k] for k in order]
    expected = 0.0
    for view in (one, two):
        parts = zip(*(correlation(x, view) for x in (mixed, one, others)), strict=True)
        for row in parts:
            expected += sum((m - (lam * a + (1 - lam) * b)) ** 2 for m, a, b in zip(*row, strict=True))
    assert losses['loss_unmix'].item() == pytest.approx(4.0 * 0.1 * expected, abs=1e-10)
    assert losses['loss_base'].item() == pytest.approx(naive(one, two, 0.1), abs=1e-10)


def test_mixtures_of_images_with_themselves_have_no_loss() -> None:
    """Whatever the scale of the dimensions; and the rest of other mixtures counts with its weight."""
    head, (a, b) = BarlowTwinsHead(off_diagonal=0.5, eps=0.0), features(2, 7, 3)
    assert head.nonlinearity(0.3, 5 * a + 2, a, a, a, b).item() == pytest.approx(0, abs=1e-12)
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    turned = signs.flip(1)  # the rest is 0.7 * (signs - turned): correlations of 0.7 and -0.7
    assert head.nonlinearity(0.3, signs, signs, turned, signs).item() == pytest.approx(0.5 * 4 * 0.49, abs=1e-12)


@pytest.mark.parametrize(
    ('head', 'unmix', 'words'),
    [
        (dict(type='VICRegHead'), None, "model.head.type is 'VICRegHead'; MixedBarlowTwins compares"),
        ({}, dict(pairs='once'), "Set it to 'all'"),
        ({}, dict(replace=True), 'Mixed Barlow Twins compares the mixture with it'),
        ({}, dict(shares='sample'), 'BarlowTwinsHead has no loss of a single sample'),
    ],
)
def test_what_mixed_barlow_twins_cannot_do_is_refused(head: dict, unmix: dict | None, words: str) -> None:
    method = METHODS['mixed-barlow-twins']
    method = replace(method, config=dict(method.config, head=head or method.config['head']))
    with pytest.raises(ValueError, match=words):
        method.build(None if unmix is None else dict(type='UnMix', **unmix))
