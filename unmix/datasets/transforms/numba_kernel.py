"""Views in one compiled pass per image. Importing this module compiles it, or loads what was compiled before."""

# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: SIM109

import hashlib
from pathlib import Path

import numpy as np
from numba import njit

from unmix.datasets.transforms.numba_colors import BLUR, CONTRAST, NONE, blur, change, grey_sum
from unmix.datasets.transforms.numba_resample import F, fast, resample

TILE = 1024  # pixels that stay in the fastest cache while they are changed
PARTS = ('blur.py', 'numba_colors.py', 'numba_resample.py')
# One signature: processes that compile different ones at once would mix up numba's cache.
SIGNATURE = (
    'void(Array(uint8, 1, "C", readonly=True), int64[:, ::1], int64[:, ::1], float32[:, ::1], int64, '
    'UniTuple(int64, 2), boolean, boolean, float32[::1], float32[::1], float32[:, :, :, ::1], uint8[:, :, :, ::1])'
)


@fast
def _run(image, height, width, codes, values, start, stop):
    """Do what stands in the slots from start to stop; neighbouring changes go over an image together."""
    pixels = height * width
    mean, known = F(0), False
    slot = start
    while slot < stop:
        code = codes[slot]
        if code == NONE or code == BLUR:
            if code == BLUR:
                blur(image, height, width, values[slot])
            slot += 1
            continue
        if code == CONTRAST and not known:
            mean = grey_sum(image, 0, pixels) / F(pixels)
        end = slot + 1
        while end < stop and codes[end] != CONTRAST and codes[end] != BLUR:
            end += 1
        known = end < stop and codes[end] == CONTRAST
        total = F(0)
        for tile in range(0, pixels, TILE):
            tile_end = min(tile + TILE, pixels)
            for i in range(slot, end):
                change(image, tile, tile_end, codes[i], values[i], mean)
            if known:
                total += grey_sum(image, tile, tile_end)
        mean = total / F(pixels)
        slot = end


def _compile(stamp: str):
    """Compile, or load from numba's cache, which goes by this file and, through ``stamp``, by the other sources."""

    def views(source, numbers, codes, values, split, size, interleaved, bicubic, mean, scale, floats, whole):
        stamp  # noqa: B018
        slots = codes.shape[1]
        to_bytes = len(floats) == 0
        channels = whole.shape[1] if to_bytes else floats.shape[1]
        rows, columns = size
        work = np.empty((channels, rows, columns), np.float32)
        image = work.reshape((channels, rows * columns))
        for n in range(len(numbers)):
            origin, height, width = numbers[n, 0], numbers[n, 1], numbers[n, 2]
            box = (numbers[n, 3], numbers[n, 4], numbers[n, 5], numbers[n, 6])
            resized, corner, flip = (numbers[n, 7], numbers[n, 8]), (numbers[n, 9], numbers[n, 10]), numbers[n, 11] != 0
            if split > 0:
                early = np.empty((channels, height * width), np.float32)
                step, plane = (channels, 1) if interleaved else (1, height * width)
                for c in range(channels):
                    for i in range(height * width):
                        early[c, i] = source[origin + c * plane + i * step]
                _run(early, height, width, codes[n], values[n], 0, split)
                resample(early.reshape(-1), 0, False, height, width, box, resized, corner, flip, bicubic, work)
            else:
                resample(source, origin, interleaved, height, width, box, resized, corner, flip, bicubic, work)
            _run(image, rows, columns, codes[n], values[n], split, slots)
            for c in range(channels):
                x = image[c]
                if to_bytes:
                    y = whole[n, c].reshape(-1)
                    for i in range(len(x)):
                        y[i] = np.uint8(np.int32(x[i] + F(0.5)))
                else:
                    m, s, z = mean[c], scale[c], floats[n, c].reshape(-1)
                    for i in range(len(x)):
                        z[i] = (x[i] - m) * s

    try:
        return njit(SIGNATURE, cache=True, fastmath=True, error_model='numpy', nogil=True)(views)
    except (RuntimeError, OSError):  # there is no folder in which numba could keep what it compiles, or no room
        return njit(SIGNATURE, fastmath=True, error_model='numpy', nogil=True)(views)


_stamp = hashlib.sha256(b''.join(Path(__file__).with_name(name).read_bytes() for name in PARTS)).hexdigest()
views = _compile(_stamp)
