"""The operations: shares, draws, bounds."""

import numpy as np
import pytest
import torch

from unmix.mixing import CutMix, Mixup, RandomMixing, region_box

MIXINGS = [Mixup(), CutMix(), RandomMixing(), RandomMixing(prob=0.0, alpha=0.4)]


@pytest.mark.parametrize('mixing', MIXINGS, ids=lambda mixing: type(mixing).__name__)
@pytest.mark.parametrize('size', [(32, 32), (5, 9), (1, 1)])
def test_lam_is_the_share_of_the_first_image(mixing, size):
    rng = np.random.default_rng(0)
    image, partner = torch.ones(2, 3, *size, dtype=torch.float64), torch.zeros(2, 3, *size, dtype=torch.float64)
    for _ in range(50):
        mixed, lam = mixing.apply(image, partner, mixing.draw(rng, size))
        assert mixed.mean().item() == pytest.approx(lam, abs=1e-12)
        assert image.min() == 1
        assert partner.max() == 0
        assert mixed.data_ptr() != image.data_ptr()


@pytest.mark.parametrize('mixing', MIXINGS, ids=lambda mixing: type(mixing).__name__)
def test_draws_are_a_function_of_the_generator(mixing):
    image, partner = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    one, two = (mixing.apply(image, partner, mixing.draw(np.random.default_rng(3), (8, 8))) for _ in range(2))
    assert torch.equal(one[0], two[0])
    assert one[1] == two[1]


def test_region_box_of_the_specification():
    """32 x 32, lam 0.5, centre (0, 31): sides 22, half 11, clipped to [0, 11) x [20, 32)."""
    assert region_box((32, 32), 0.5, (0, 31)) == (0, 11, 20, 32)
    _, lam = CutMix().apply(torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32), (0.5, 0, 31))
    assert lam == 0.87109375


def test_degenerate_box_changes_nothing():
    image = torch.rand(1, 1, 32, 32)
    mixed, lam = CutMix().apply(image, image + 1, (0.9999, 16, 16))
    assert lam == 1
    assert torch.equal(mixed, image)


def test_sides_follow_their_own_axis():
    top, bottom, left, right = region_box((4, 60), 0.0, (2, 30))
    assert (bottom - top, right - left) == (4, 60)


@pytest.mark.slow
def test_expected_share_after_clipping():
    """Clipping only shrinks the box: the mean share rises from 0.5 to about 0.70 at 32 px; it is never below 0.121."""
    rng, mixing = np.random.default_rng(0), CutMix()
    image = torch.zeros(1, 1, 32, 32)
    shares = np.array([mixing.apply(image, image, mixing.draw(rng, (32, 32)))[1] for _ in range(20000)])
    assert shares.mean() == pytest.approx(0.70, abs=0.01)
    assert shares.min() >= 0.121


def test_prob_is_the_share_of_global_mixtures():
    rng = np.random.default_rng(0)
    drawn = [type(RandomMixing(prob=0.3).draw(rng, (8, 8))[0]) for _ in range(4000)]
    assert np.mean([kind is Mixup for kind in drawn]) == pytest.approx(0.3, abs=0.025)
    assert {type(RandomMixing(prob=1.0).draw(rng, (8, 8))[0]) for _ in range(200)} == {Mixup}
    assert {type(RandomMixing(prob=0.0).draw(rng, (8, 8))[0]) for _ in range(200)} == {CutMix}


def test_mixing_commutes_with_normalisation():
    image, mean, std = torch.rand(4, 3, 8, 8, dtype=torch.float64), 0.4, 0.2
    for mixing in MIXINGS:
        params = mixing.draw(np.random.default_rng(1), (8, 8))
        before, _ = mixing.apply((image - mean) / std, (image.flip(0) - mean) / std, params)
        after, _ = mixing.apply(image, image.flip(0), params)
        torch.testing.assert_close(before, (after - mean) / std, rtol=0, atol=1e-12)


@pytest.mark.parametrize('arguments', [dict(prob=1.5), dict(prob=-0.1), dict(alpha=0.0), dict(alpha=-1.0)])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=rf'model\.unmix\.mixing\.{next(iter(arguments))} is'):
        RandomMixing(**arguments)
