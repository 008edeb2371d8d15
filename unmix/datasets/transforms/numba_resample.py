"""Crop, resize and flip, compiled by numba; part of ``numba_kernel``. Pixels are float32 in units of 0 to 255.

First all columns of a view are made of a box's rows, then its rows of these. Vectors are whole, so arrays have room for
some more columns and rows than are looked at.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

from unmix.datasets.transforms.numba_vectors import (
    DEPTH,
    GROUP,
    LANES,
    SPREAD,
    add_four,
    add_rows,
    add_two,
    mix_four,
    mix_rows,
    mix_two,
    spread_bytes,
    spread_planes,
)

F, U = np.float32, np.uint64
WHITE = F(255)
fast = njit(fastmath=True, error_model='numpy', nogil=True)


@fast
def _up(number, unit):
    """Round up to a multiple."""
    return (number + unit - 1) // unit * unit


@fast
def num_taps(size, resized, bicubic):
    """Pixels that an output is made of; an even number."""
    taps = int((4.0 if bicubic else 2.0) * max(size / resized, 1.0)) + (1 if size > resized else 0)
    return _up(min(taps, size), 2)


@fast
def _filter(size, resized, corner, out, bicubic, mirror, step, taps, filters):
    """Fill first pixels (S,), times ``step``, and weights (taps, S) of the ``out`` outputs from ``corner`` on."""
    first, weights, offset, total = filters
    scale = size / resized
    narrow = F(min(1 / scale, 1.0))
    reach = (2.0 if bicubic else 1.0) * max(scale, 1.0) - 0.5
    begin, step_out = (corner + out - 0.5, -scale) if mirror else (corner + 0.5, scale)
    for k in range(out):
        centre = begin * scale + k * step_out
        start = max(min(int(max(centre - reach, 0.0)), size - taps), 0)
        first[k] = start * step
        offset[k] = F(start + 0.5 - centre)
        total[k] = F(0)
    for j in range(taps):
        w, inside = weights[j], F(1) if j < size else F(0)
        for k in range(out):
            x = abs((F(j) + offset[k]) * narrow)
            if bicubic:
                inner = (F(1.5) * x - F(2.5)) * x * x + F(1)
                outer = ((F(-0.5) * x + F(2.5)) * x - F(4)) * x + F(2)
                w[k] = inside * (inner if x < F(1) else (outer if x < F(2) else F(0)))
            else:
                w[k] = inside * max(F(1) - x, F(0))
            total[k] += w[k]
    for j in range(taps):
        w = weights[j]
        for k in range(out):
            w[k] /= total[k]


@fast
def _filters(out, taps):
    """Room for a filter: first pixels, weights, and two arrays for ``_filter``."""
    room = _up(out, GROUP)
    numbers = np.zeros((taps + 2, room), np.float32)
    return np.zeros(room, np.uint32), numbers[2:], numbers[0], numbers[1]


@fast
def workspace(boxes, resized, rows, columns, bicubic):
    """Room for any of the boxes (N, 4), each to be resized (N, 2): filters, a few rows of a box, and all, resized."""
    taps_y, taps_x = 2, 2
    for n in range(len(boxes)):
        taps_y = max(taps_y, num_taps(boxes[n, 2], resized[n, 0], bicubic))
        taps_x = max(taps_x, num_taps(boxes[n, 3], resized[n, 1], bicubic))
    height, width = _up(boxes[:, 2].max() + 1, GROUP), _up(boxes[:, 3].max() + 1, SPREAD)
    pixels = np.zeros(GROUP * width * DEPTH, np.float32)
    resampled = np.empty(3 * height * _up(columns, LANES), np.float32)
    if columns % LANES:
        resampled[:] = 0  # what is read beside the columns may be anything, but not slow to compute with
    return _filters(rows, taps_y), _filters(columns, taps_x), pixels, resampled


@fast
def _spread(source, begin, plane, width, interleaved, pixels, o):
    """Turn a row of a box to pixels of four floats."""
    a = U(begin)
    for x in range(0, width, SPREAD):
        i = U(x)
        to = U(o) + U(DEPTH) * i
        if interleaved:
            spread_bytes(pixels, to, source, a + U(3) * i)
        else:
            spread_planes(pixels, to, source, a + i, a + i + U(plane), a + i + U(2 * plane))


@fast
def _horizontal(pixels, stride, first, weights, taps, columns, out, o, plane, pitch):
    """Make a few rows of ``out`` (3, H, pitch) of as many rows of pixels."""
    room = U(weights.shape[1])
    o, plane, pitch, stride = U(o), U(plane), U(pitch), U(stride)
    for x in range(0, columns, GROUP):
        i = U(x)
        if taps == 2:
            mix_two(out, o + i, plane, pitch, pixels, U(0), stride, first, weights, i, i, room)
        else:
            mix_four(out, o + i, plane, pitch, pixels, U(0), stride, first, weights, i, i, room)
    for j in range(4, taps, 4):
        a, w = U(j * DEPTH), U(j) * room
        for x in range(0, columns, GROUP):
            i = U(x)
            if j + 2 == taps:
                add_two(out, o + i, plane, pitch, pixels, a, stride, first, weights, i, w + i, room)
            else:
                add_four(out, o + i, plane, pitch, pixels, a, stride, first, weights, i, w + i, room)


@fast
def _vertical(source, plane, pitch, first, weights, taps, image, channels, rows, columns):
    """Make the image (C, rows, columns) of the rows of ``source`` (3, H, pitch)."""
    for c in range(channels):
        for y in range(rows):
            o, a = U((c * rows + y) * columns), U(c * plane + first[y])
            for j in range(0, taps, 2):
                p, q, b = weights[j, y], weights[j + 1, y], a + U(pitch)
                for x in range(0, columns, LANES):  # what is written beyond a row, the next one writes over
                    i = U(x)
                    if j == 0:
                        mix_rows(image, o + i, source, a + i, b + i, p, q)
                    else:
                        add_rows(image, o + i, source, a + i, b + i, p, q)
                a = b + U(pitch)


@fast
def resample(source, origin, interleaved, place, image, shape, work):
    """Crop, resize, clamp and flip an image that begins at ``origin`` of ``source``.

    It is (H, W, 3) if it is interleaved, or else (C, H, W) with C of 1 or 3. The view goes to ``image``, which has room
    for LANES more than its ``shape`` (C, h, w).
    """
    (height, width), box, resized, corner, flip, bicubic = place
    top, left, box_height, box_width = box
    channels, rows, columns = shape
    filter_y, filter_x, pixels, resampled = work
    taps_y, taps_x = num_taps(box_height, resized[0], bicubic), num_taps(box_width, resized[1], bicubic)
    pitch = _up(columns, LANES)
    _filter(box_height, resized[0], corner[0], rows, bicubic, False, pitch, taps_y, filter_y)
    _filter(box_width, resized[1], corner[1], columns, bicubic, flip, DEPTH, taps_x, filter_x)
    plane, stride = _up(box_height + 1, GROUP) * pitch, _up(box_width + 1, SPREAD) * DEPTH
    step, distance = (3, 0) if interleaved else (1, 0 if channels == 1 else height * width)
    last = origin + 2 * distance + ((top + box_height - 1) * width + left + _up(box_width, SPREAD)) * step
    if last > len(source):  # what is read in whole vectors
        padded = np.zeros(channels * height * width + 3 * SPREAD, source.dtype)
        padded[: channels * height * width] = source[origin : origin + channels * height * width]
        source, origin = padded, 0
    for y in range(0, box_height, GROUP):
        for r in range(min(GROUP, box_height - y)):
            begin = origin + ((top + y + r) * width + left) * step
            _spread(source, begin, distance, box_width, interleaved, pixels, r * stride)
        _horizontal(pixels, stride, filter_x[0], filter_x[1], taps_x, columns, resampled, y * pitch, plane, pitch)
    _vertical(resampled, plane, pitch, filter_y[0], filter_y[1], taps_y, image, channels, rows, columns)
    if bicubic:
        for i in range(channels * rows * columns):
            image[i] = min(max(image[i], F(0)), WHITE)
