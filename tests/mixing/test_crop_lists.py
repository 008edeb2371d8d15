"""Mixing a view that is a list of crops: one mixture and share, a box for each crop, and the policies of shares."""

import pytest
import torch

from unmix.mixing import CutMix, Mixup, UnMix, region_box
from unmix.utils.rng import generator

SIZES = (32, 32, 16, 16)


def crops():
    return [torch.randn(4, 3, size, size, dtype=torch.float64) for size in SIZES]


def mix(policy, seed, **mixing):
    unmix = UnMix(mixing=mixing or None, lam_policy=policy)
    view = crops()
    mixed, lam = unmix.mix(view, generator(seed))
    return view, mixed, lam


def shares_of(view, mixed):
    """The share of pixels that each mixture has of its own image."""
    return [(a == b).double().mean().item() for a, b in zip(view, mixed, strict=True)]


@pytest.mark.parametrize('seed', range(5))
def test_each_pair_has_its_exact_share(seed):
    view, mixed, lam = mix('per_pair', seed, type='CutMix')
    assert lam.tolist() == pytest.approx(shares_of(view, mixed), abs=1e-12)
    _, _, first = mix('first', seed, type='CutMix')
    assert first == lam[0].item()


def test_all_crops_have_the_drawn_share_and_own_places():
    rng = generator(0)
    params = CutMix().draw(rng, (32, 32))
    again = CutMix().draw_again(rng, (16, 16), params)
    assert again[0] == params[0]
    assert again[1:] != params[1:]
    assert max(again[1:]) < 16


def test_chained_boxes_start_from_the_share_before():
    """As released: the wanted share of a box is the exact one of the box before, and the last one weights all."""
    view, mixed, lam = mix('chained', 3, type='CutMix')
    rng = generator(3)
    share = float(rng.beta(1.0, 1.0))
    expected = []
    for size in SIZES:
        top, bottom, left, right = region_box((size, size), share, (int(rng.integers(size)), int(rng.integers(size))))
        share = 1 - (bottom - top) * (right - left) / size**2
        expected.append(share)
    assert lam == expected[-1]
    assert shares_of(view, mixed) == pytest.approx(expected, abs=1e-12)


def test_chained_shares_grow():
    """For 2 x 224 and 6 x 96 pixels the last share is 0.88 on average, the first one 0.68."""
    cutmix = CutMix()
    first, last = [], []
    for seed in range(1500):
        rng, shares = generator('chain', seed), []
        params = cutmix.draw(rng, (224, 224))
        for size in (224, 96, 96, 96):
            top, bottom, left, right = region_box((size, size), params[0], params[1:])
            shares.append(1 - (bottom - top) * (right - left) / size**2)
            params = cutmix.draw_again(rng, (96, 96), params, shares[-1])
        first.append(shares[0])
        last.append(shares[-1])
    assert sum(first) / 1500 == pytest.approx(0.68, abs=0.03)
    assert sum(last) / 1500 == pytest.approx(0.88, abs=0.03)


def test_one_draw_decides_the_kind_for_all_crops():
    kinds = set()
    for seed in range(20):
        view, mixed, lam = mix('per_pair', seed, type='RandomMixing', prob=0.5)
        is_global = [(a == b).double().mean().item() < 0.01 for a, b in zip(view, mixed, strict=True)]
        assert len(set(is_global)) == 1
        if is_global[0]:
            assert len(set(lam.tolist())) == 1
        kinds.add(is_global[0])
    assert kinds == {True, False}


def test_mixup_keeps_its_share_also_when_chained():
    assert Mixup().draw_again(generator(0), (8, 8), (0.3,)) == (0.3,)
    assert Mixup().draw_again(generator(0), (8, 8), (0.3,), 0.4) == (0.4,)


def test_a_single_crop_has_one_share():
    view = crops()[:1]
    mixed, lam = UnMix().mix(view, generator(1))
    plain, same = UnMix().mix(view[0], generator(1))
    assert lam == same
    assert torch.equal(mixed[0], plain)
