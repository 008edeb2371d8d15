"""Who is mixed with whom, against indices written out."""

import numpy as np
import pytest
import torch

from unmix.mixing import UnMix
from unmix.mixing.partners import OncePartners, Partners, RandomPartners

SEED = 3


def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


@pytest.mark.parametrize('number', [6, 7])
@pytest.mark.parametrize('kind', ['reverse', 'once', 'random'])
def test_pairs_and_what_they_meet(kind: str, number: int) -> None:
    """Mixture n is of n and pi(n); its second target is that of pi(n), wherever its terms stand."""
    partners = dict(reverse=Partners(), once=OncePartners(), random=RandomPartners(rng))[kind]
    order = [*rng().permutation(number)] if kind == 'random' else [number - 1 - n for n in range(number)]
    half = range((number + 1) // 2 if kind == 'once' else number)
    samples = torch.arange(number)
    first, second = partners.first(samples), partners.second(samples)
    assert first.tolist() == [*half]
    assert second.tolist() == [order[n] for n in half]
    own, others = partners.met(samples)
    assert own.tolist() == first.tolist()
    mixtures = torch.arange(len(first))
    assert [order[m] for m in partners.turn(mixtures)] == others.tolist()
    assert partners.back(partners.turn(mixtures)).tolist() == mixtures.tolist()


@pytest.mark.parametrize('number', [6, 7])
def test_once_has_each_unordered_pair_once(number: int) -> None:
    samples = torch.arange(number)
    partners = OncePartners()
    pairs = {
        frozenset(pair)
        for pair in zip(*(x.tolist() for x in (partners.first(samples), partners.second(samples))), strict=True)
    }
    assert pairs == {frozenset((n, number - 1 - n)) for n in range(number)}


@pytest.mark.parametrize('pairs', ['all', 'once'])
def test_mixtures_are_of_these_pairs(pairs: str) -> None:
    view = torch.rand(6, 1, 4, 4, dtype=torch.float64)
    mixture, lam = UnMix(mixing=dict(type='Mixup'), pairs=pairs).mix(view, rng())
    expected = [lam * view[n] + (1 - lam) * view[5 - n] for n in range(3 if pairs == 'once' else 6)]
    torch.testing.assert_close(mixture, torch.stack(expected), rtol=0, atol=1e-15)
