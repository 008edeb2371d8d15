"""Views in one compiled pass per image. Importing this module compiles it, or loads what was compiled before."""

# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: SIM109

import hashlib
from pathlib import Path

import numpy as np
from numba import njit

from unmix.datasets.transforms.numba_colors import BLUR, CONTRAST, NONE, blur, change, grey_sum
from unmix.datasets.transforms.numba_resample import F, U, fast, resample, workspace
from unmix.datasets.transforms.numba_vectors import LANES, SPREAD

TILE = 1024  # pixels that stay in the fastest cache while they are changed
PARTS = ('blur.py', 'numba_colors.py', 'numba_resample.py', 'numba_vectors.py')
# One signature: processes that compile different ones at once would mix up numba's cache.
SIGNATURE = (
    'void(uint8[::1], int64[:, ::1], int64[:, ::1], float32[:, ::1], int64, '
    'UniTuple(int64, 2), boolean, boolean, float32[::1], float32[::1], float32[::1], uint8[::1])'
)


@fast
def _run(image, shape, codes, values, start, stop):
    """Do what stands in the slots from start to stop; neighbouring changes go over an image together."""
    channels, height, width = shape
    pixels = height * width
    mean, known = F(0), False
    slot = start
    while slot < stop:
        code = codes[slot]
        if code == NONE or code == BLUR:
            if code == BLUR:
                blur(image, channels, height, width, values[slot])
            slot += 1
            continue
        if code == CONTRAST and not known:
            mean = grey_sum(image, pixels, channels, 0, pixels) / F(pixels)
        end = slot + 1
        while end < stop and codes[end] != CONTRAST and codes[end] != BLUR:
            end += 1
        known = end < stop and codes[end] == CONTRAST
        total = F(0)
        for tile in range(0, pixels, TILE):
            tile_end = min(tile + TILE, pixels)
            for i in range(slot, end):
                change(image, pixels, channels, tile, tile_end, codes[i], values[i], mean)
            if known:
                total += grey_sum(image, pixels, channels, tile, tile_end)
        mean = total / F(pixels)
        slot = end


def _compile(stamp: str):
    """Compile, or load from numba's cache, which goes by this file and, through ``stamp``, by the other sources."""

    def views(source, numbers, codes, values, split, size, interleaved, bicubic, mean, scale, floats, whole):
        stamp  # noqa: B018
        slots = codes.shape[1]
        to_bytes = len(floats) == 0
        channels = len(mean)
        rows, columns = size
        shape, pixels = (channels, rows, columns), rows * columns
        work = workspace(numbers[:, 3:7], numbers[:, 7:9], rows, columns, bicubic)
        image = np.empty(channels * pixels + LANES, np.float32)
        for n in range(len(numbers)):
            origin, height, width = numbers[n, 0], numbers[n, 1], numbers[n, 2]
            box = (numbers[n, 3], numbers[n, 4], numbers[n, 5], numbers[n, 6])
            resized, corner, flip = (numbers[n, 7], numbers[n, 8]), (numbers[n, 9], numbers[n, 10]), numbers[n, 11] != 0
            place = ((height, width), box, resized, corner, flip, bicubic)
            if split > 0:
                early = np.zeros(channels * height * width + SPREAD, np.float32)
                step, plane = (channels, 1) if interleaved else (1, height * width)
                for c in range(channels):
                    for i in range(height * width):
                        early[c * height * width + i] = source[origin + c * plane + i * step]
                _run(early, (channels, height, width), codes[n], values[n], 0, split)
                resample(early, 0, False, place, image, shape, work)
            else:
                resample(source, origin, interleaved, place, image, shape, work)
            _run(image, shape, codes[n], values[n], split, slots)
            for c in range(channels):
                a, z = U(c * pixels), U((n * channels + c) * pixels)
                m, s = mean[c], scale[c]
                for i in range(pixels):
                    k = U(i)
                    if to_bytes:
                        whole[z + k] = np.uint8(np.int32(image[a + k] + F(0.5)))
                    else:
                        floats[z + k] = (image[a + k] - m) * s

    try:
        return njit(SIGNATURE, cache=True, fastmath=True, error_model='numpy', nogil=True)(views)
    except (RuntimeError, OSError):  # there is no folder in which numba could keep what it compiles, or no room
        return njit(SIGNATURE, fastmath=True, error_model='numpy', nogil=True)(views)


_stamp = hashlib.sha256(b''.join(Path(__file__).with_name(name).read_bytes() for name in PARTS)).hexdigest()
views = _compile(_stamp)
