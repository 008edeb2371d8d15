"""The search for equal and nearly equal images, against a comparison of all pairs."""

from itertools import combinations

import numpy as np
import pytest

from unmix.datasets import duplicates
from unmix.datasets.duplicates import equal_groups, near_pairs


def test_equal_groups() -> None:
    digests = np.random.default_rng(0).integers(0, 40, 100).astype(np.uint64)
    expected = [np.flatnonzero(digests == value).tolist() for value in dict.fromkeys(digests.tolist())]
    assert [group.tolist() for group in equal_groups(digests)] == [group for group in expected if len(group) > 1]
    assert equal_groups(np.empty(0, np.uint64)) == []


def unit(image: np.ndarray) -> np.ndarray:
    image = image - image.mean()
    return image / max(np.linalg.norm(image), 1e-6)


def details(image: np.ndarray) -> np.ndarray:
    """The image less the mean of each pixel and its 8 neighbours."""
    wide = np.pad(image.astype(float), 1, mode='reflect')
    return image - sum(wide[y : y + 16, x : x + 16] for y in range(3) for x in range(3)) / 9


def naive(a: np.ndarray, b: np.ndarray, small: bool) -> bool:
    textures = [(details(image).std(), image.std()) for image in (a, b)]
    detailed = [fine >= 1.5 and fine >= 0.1 * whole for fine, whole in textures]
    whole, fine = (unit(a) * unit(b)).sum(), (unit(details(a)) * unit(details(b))).sum()
    if all(detailed):
        least = (0.997, 0.99) if small else (0.99, 0.95)
        return bool(whole >= least[0] and fine >= least[1])
    if any(detailed) or small or min(image.std() for image in (a, b)) < 1:
        return False
    apart = a.astype(float) - b
    return bool(abs(apart).max() <= 3 and (apart**2).mean() <= 0.81 and whole >= 0.9 and fine >= 0.6)


@pytest.mark.parametrize('side', [8, 100])
def test_near_pairs_are_those_of_a_comparison_of_all(side: int) -> None:
    rng = np.random.default_rng(1)
    ramp = np.linspace(0, 20, 16)[:, None] + np.linspace(0, 9, 16)
    images = [rng.integers(0, 256, (16, 16)) for _ in range(14)]  # with many details
    images += [100 + 3 * n + ramp + rng.normal(0, 0.9, (16, 16)) for n in range(10)]  # with few
    images += [images[n] + rng.normal(0, noise, (16, 16)) for n in range(0, 24, 2) for noise in (0.3, 4.0)]
    thumbnails = np.clip(np.rint(images), 0, 255).astype(np.uint8)
    means = np.repeat(thumbnails.mean((1, 2))[:, None], 3, axis=1)
    expected = [
        (i, j)
        for i, j in combinations(range(len(images)), 2)
        if naive(thumbnails[i], thumbnails[j], side < 32)
        and (abs(means[i] - means[j]).max() <= 0.6 or max(details(thumbnails[n]).std() for n in (i, j)) > 1.5)
    ]
    found = near_pairs(thumbnails, np.full(len(images), side), means)
    assert [tuple(pair) for pair in found.tolist()] == expected
    assert 10 < len(expected) < 40


def test_time_does_not_grow_with_the_square(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that are all alike are compared with some of their bucket only."""
    compared, real = [], duplicates._same_details

    def count(thumbnails: np.ndarray, pairs: np.ndarray, large: np.ndarray) -> np.ndarray:
        compared.append(len(pairs))
        return real(thumbnails, pairs, large)

    monkeypatch.setattr(duplicates, '_same_details', count)
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16)).astype(np.uint8)
    monkeypatch.setattr(duplicates, 'WINDOW', 4)
    near_pairs(np.repeat(image, 200, axis=0), np.full(200, 64), np.zeros((200, 3)))
    assert sum(compared) <= duplicates.TABLES * 4 * 200
    assert near_pairs(image[:0], np.empty(0), np.empty((0, 3))).shape == (0, 2)
