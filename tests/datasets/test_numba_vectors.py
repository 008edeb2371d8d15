"""The vector operations of the kernel against the formulas in their comments."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip('numba')

from numba import njit

from unmix.datasets.transforms.numba_vectors import (
    add_four,
    add_rows,
    add_two,
    mix_four,
    mix_rows,
    mix_two,
    spread_bytes,
    spread_planes,
)

RNG = np.random.default_rng(0)
U = np.uint64


def floats(*shape: int) -> np.ndarray:
    return RNG.random(shape, np.float32)


@pytest.mark.parametrize('add', [False, True])
def test_rows(add: bool) -> None:
    operation = add_rows if add else mix_rows
    run = njit(lambda out, source: operation(out, U(3), source, U(1), U(18), np.float32(0.25), np.float32(2)))
    out, source = floats(21), floats(35)
    expected = out.copy()
    expected[3:19] = 0.25 * source[1:17] + 2 * source[18:34] + (out[3:19] if add else 0)
    run(out, source)
    np.testing.assert_allclose(out, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ('operation', 'taps', 'add'), [(mix_two, 2, False), (add_two, 2, True), (mix_four, 4, False), (add_four, 4, True)]
)
def test_pixels(operation: Any, taps: int, add: bool) -> None:
    o, plane, pitch, a, stride, x, w, room = 2, 40, 7, 4, 48, 1, 3, 6

    @njit
    def run(out, pixels, first, weights):  # type: ignore[no-untyped-def]
        operation(out, U(o), U(plane), U(pitch), pixels, U(a), U(stride), first, weights, U(x), U(w), U(room))

    out, pixels, weights = floats(3 * plane), floats(4 * stride + 8), floats(5, 6)
    first = np.array([0, 4, 0, 20, 12], np.uint32)
    expected = out.copy()
    for r in range(4):
        for i in range(4):
            for c in range(3):
                j = a + r * stride + first[x + i] + c
                mixed = sum(weights.flat[w + k * room + i] * pixels[j + 4 * k] for k in range(taps))
                at = o + c * plane + r * pitch + i
                expected[at] = mixed + (out[at] if add else 0)
    run(out, pixels, first, weights)
    np.testing.assert_allclose(out, expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_pixels_are_spread_to_four_floats(dtype: type) -> None:
    source = (255 * RNG.random(64)).astype(dtype)
    planes, whole = np.full(40, -1, np.float32), np.full(40, -1, np.float32)
    njit(lambda out, x: spread_planes(out, U(5), x, U(1), U(20), U(41)))(planes, source)
    njit(lambda out, x: spread_bytes(out, U(5), x, U(2)))(whole, source)
    for out, expected in (
        (planes, np.stack([source[1:9], source[20:28], source[41:49]], 1)),
        (whole, source[2:26].reshape(8, 3)),
    ):
        assert (out[5:37].reshape(8, 4)[:, :3] == expected).all()
        assert (np.delete(out, slice(5, 37)) == -1).all()
