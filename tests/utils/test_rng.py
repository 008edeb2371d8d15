"""Random numbers by purpose."""

import hashlib
import random
from contextlib import suppress

import numpy as np
import pytest
import torch

from unmix.utils.rng import generator, preserved, reseed, seeded, stream, uniforms

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(bits: int) -> int:
    """Plain-integer oracle of the finaliser."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def test_stream_is_the_documented_hash_on_every_machine() -> None:
    digest = hashlib.blake2b(b"('mixing', 0, 7)", digest_size=8).digest()
    assert stream('mixing', 0, 7) == int.from_bytes(digest, 'little') == stream('mixing', np.int64(0), np.int32(7))


def test_streams_of_different_purposes_differ() -> None:
    purposes = [('a', 'b'), ('ab',), (1,), ('1',), (), ('',), (1, 2), (12,), (-1,), (2**64,), (0,), ('a', 0), (0, 'a')]
    assert len({stream(*purpose) for purpose in purposes}) == len(purposes)
    grid = {stream('x', seed, epoch, view) for seed in range(20) for epoch in range(50) for view in range(4)}
    assert len(grid) == 20 * 50 * 4


def test_uniforms_are_splitmix64_in_counter_mode() -> None:
    key, index = stream('x'), np.array([0, 5, 2**31, -1])
    state = [splitmix64((key + (int(i) + 1) * GOLDEN) & MASK) for i in index]
    expected = [[(splitmix64((s + (j + 1) * GOLDEN) & MASK) >> 11) / 2**53 for j in range(6)] for s in state]
    np.testing.assert_array_equal(uniforms(key, index, 6), expected)


def test_uniforms_do_not_depend_on_the_batch_or_on_how_many_are_drawn() -> None:
    index = np.random.default_rng(0).permutation(1000)
    whole = uniforms(9, index, 8)
    np.testing.assert_array_equal(uniforms(9, index[[17]], 3), whole[[17], :3])
    np.testing.assert_array_equal(uniforms(9, index[::-1], 8), whole[::-1])
    assert uniforms(9, index, 0).shape == (1000, 0)
    assert uniforms(9, index[:0], 4).shape == (0, 4)


@pytest.mark.parametrize('axis', [0, 1])
def test_uniforms_are_uniform_and_independent(axis: int) -> None:
    """Bounds are 5 standard errors; ``axis``: along the indices, along the draws of an index."""
    draws = uniforms(stream('statistics'), np.arange(1000), 1000)
    n = draws.size
    assert draws.min() >= 0 and draws.max() < 1  # noqa: PT018
    assert abs(draws.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / n)
    assert abs(draws.var() - 1 / 12) < 5 * np.sqrt(1 / 180 / n)
    ordered = np.sort(draws, axis=None)
    assert np.abs(ordered - (np.arange(n) + 0.5) / n).max() < 2.3 / np.sqrt(n)  # Kolmogorov-Smirnov, p = 5e-5
    centred = draws - 0.5
    for lag in (1, 2, 7, 64):
        near, far = (np.take(centred, range(*r), axis) for r in ((1000 - lag,), (lag, 1000)))
        assert abs((near * far).mean() * 12) < 5 / np.sqrt(near.size)
    counts, _, _ = np.histogram2d(
        np.delete(draws, -1, axis).ravel(), np.delete(draws, 0, axis).ravel(), bins=16, range=[[0, 1]] * 2
    )
    expected = counts.sum() / 256
    assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 5 * np.sqrt(2 * 255)  # pairs fill the square


def test_neighbouring_seeds_share_nothing() -> None:
    """MMEngine's seeds 0 and 1 share 7 of 8 worker streams; here no two streams have a number in common."""
    index = np.arange(500)
    blocks = [
        uniforms(stream('augmentation', s, e, v), index, 20) for s in range(3) for e in range(3) for v in range(2)
    ]
    everything = np.concatenate([block.ravel() for block in blocks])
    assert len(np.unique(everything)) == len(everything)
    correlation = np.corrcoef([block.ravel() for block in blocks])
    assert np.abs(correlation - np.eye(len(blocks))).max() < 5 / np.sqrt(blocks[0].size)


def test_generator_starts_at_the_same_place_and_purposes_are_independent() -> None:
    np.testing.assert_array_equal(generator('mixing', 0, 3).random(5), generator('mixing', 0, 3).random(5))
    first = np.array([generator('mixing', seed, i).random() for seed in range(2) for i in range(2000)])
    assert len(np.unique(first)) == len(first)
    assert abs(first.mean() - 0.5) < 5 * np.sqrt(1 / 12 / len(first))
    assert abs(np.corrcoef(first[:2000], first[2000:])[0, 1]) < 5 / np.sqrt(2000)


def draw_all() -> tuple[float, ...]:
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(()).item()


def test_seeded_is_a_function_of_its_purpose_and_leaves_no_trace() -> None:
    reseed('start')
    expected = [draw_all() for _ in range(3)]
    reseed('start')
    found = [draw_all()]  # an odd number of Gaussians: one is in the cache
    with seeded('a', 1):
        first = draw_all()
        with seeded('a', 2):
            inner = draw_all()
    found.append(draw_all())
    with suppress(RuntimeError), seeded('a', 1):
        again = draw_all()
        raise RuntimeError
    found.append(draw_all())
    assert found == expected
    assert first == again
    assert not set(first) & set(inner)


def test_preserved_does_not_seed() -> None:
    reseed('x')
    with preserved():
        first = draw_all()
    assert draw_all() == first
