"""The vector operations of the kernel against the formulas in their comments."""

import numpy as np
import pytest

pytest.importorskip('numba')

from numba import njit

from unmix.datasets.transforms.numba_vectors import (
    add_pixels,
    add_rows,
    mix_pixels,
    mix_rows,
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


@pytest.mark.parametrize('add', [False, True])
def test_pixels(add: bool) -> None:
    operation = add_pixels if add else mix_pixels
    o, plane, pitch, a, stride, x, p, q = 2, 40, 7, 4, 32, 1, 3, 9

    @njit
    def run(out, pixels, first, weights):  # type: ignore[no-untyped-def]
        operation(out, U(o), U(plane), U(pitch), pixels, U(a), U(stride), first, weights, U(x), U(p), U(q))

    out, pixels, weights = floats(3 * plane), floats(4 * stride + 8), floats(4, 4)
    first = np.array([0, 4, 0, 20, 12], np.uint32)
    expected = out.copy()
    for r in range(4):
        for i in range(4):
            for c in range(3):
                k = a + r * stride + first[x + i] + c
                mixed = weights.flat[p + i] * pixels[k] + weights.flat[q + i] * pixels[k + 4]
                expected[o + c * plane + r * pitch + i] = mixed + (out[o + c * plane + r * pitch + i] if add else 0)
    run(out, pixels, first, weights)
    np.testing.assert_allclose(out, expected, rtol=1e-6)


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
