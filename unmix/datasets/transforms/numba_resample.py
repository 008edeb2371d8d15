"""Crop, resize and flip, compiled by numba; part of ``numba_kernel``. Pixels are float32 in units of 0 to 255.

Indices that are computed are unsigned, and what runs over pixels is a range: else numba looks at the sign of each
index, which keeps the compiler from making vectors of the loop.
"""

# mypy: disable-error-code="no-untyped-def"

import numpy as np
from numba import njit

F = np.float32
WHITE = F(255)
fast = njit(fastmath=True, error_model='numpy', nogil=True)


@fast
def num_taps(size, resized, bicubic):
    """Pixels that an output is made of; an even number."""
    taps = int((4.0 if bicubic else 2.0) * max(size / resized, 1.0)) + (1 if size > resized else 0)
    return taps + taps % 2


@fast
def _filter(size, resized, corner, bicubic, mirror, taps, step, first, weights):
    """Fill first pixels (S,) and weights (taps, S) of the S outputs from ``corner`` on."""
    scale = size / resized
    narrow = F(min(1 / scale, 1.0))
    support = (2.0 if bicubic else 1.0) * max(scale, 1.0)
    out = len(first)
    for o in range(out):
        centre = (corner + o + 0.5) * scale
        k = out - 1 - o if mirror else o
        start = max(min(int(max(centre - support + 0.5, 0.0)), size - taps), 0)
        first[k] = start * step
        offset = F(start + 0.5 - centre)
        total = F(0)
        for j in range(taps):
            x = abs((F(j) + offset) * narrow)
            if bicubic:
                inner = (F(1.5) * x - F(2.5)) * x * x + F(1)
                outer = ((F(-0.5) * x + F(2.5)) * x - F(4)) * x + F(2)
                w = inner if x < F(1) else (outer if x < F(2) else F(0))
            else:
                w = max(F(1) - x, F(0))
            w = w if start + j < size else F(0)
            weights[j, k] = w
            total += w
        total = F(1) / total
        for j in range(taps):
            weights[j, k] *= total


@fast
def _vertical(source, a, b, p, q, row, begin, n, add):
    """row[begin + i] = p * source[a + i] + q * source[b + i], or the same added to it."""
    a, b, begin = np.uint64(a), np.uint64(b), np.uint64(begin)  # unsigned, so that no sign is looked at
    if add:
        for i in range(n):
            k = np.uint64(i)
            row[begin + k] += p * F(source[a + k]) + q * F(source[b + k])
    else:
        for i in range(n):
            k = np.uint64(i)
            row[begin + k] = p * F(source[a + k]) + q * F(source[b + k])


@fast
def _horizontal(row, plane, step, first, weights, taps, image, y):
    """image[c, y, x] = sum of weights[j, x] * row[c * plane + first[x] + j * step]; unsigned as well."""
    channels, _, n = image.shape
    if channels != 3:
        for c in range(channels):
            for j in range(taps):
                here = np.uint32(c * plane + j * step)
                for x in range(n):
                    add = weights[j, x] * row[first[x] + here]
                    image[c, y, x] = add if j == 0 else image[c, y, x] + add
        return
    one, two = np.uint32(plane), np.uint32(2 * plane)
    a, b, c, d = np.uint32(0), np.uint32(step), np.uint32(2 * step), np.uint32(3 * step)
    if taps == 2:
        for x in range(n):
            i, p, q = first[x], weights[0, x], weights[1, x]
            image[0, y, x] = p * row[i] + q * row[i + b]
            image[1, y, x] = p * row[i + one] + q * row[i + b + one]
            image[2, y, x] = p * row[i + two] + q * row[i + b + two]
        return
    for x in range(n):
        i, p, q, r, s = first[x], weights[0, x], weights[1, x], weights[2, x], weights[3, x]
        image[0, y, x] = p * row[i] + q * row[i + b] + r * row[i + c] + s * row[i + d]
        k = i + one
        image[1, y, x] = p * row[k] + q * row[k + b] + r * row[k + c] + s * row[k + d]
        k = i + two
        image[2, y, x] = p * row[k] + q * row[k + b] + r * row[k + c] + s * row[k + d]
    for j in range(4, taps, 2):
        a, b = np.uint32(j * step), np.uint32((j + 1) * step)
        for x in range(n):
            i, p, q = first[x], weights[j, x], weights[j + 1, x]
            image[0, y, x] += p * row[i + a] + q * row[i + b]
            image[1, y, x] += p * row[i + a + one] + q * row[i + b + one]
            image[2, y, x] += p * row[i + a + two] + q * row[i + b + two]


@fast
def resample(source, origin, interleaved, height, width, box, resized, corner, flip, bicubic, image):
    """Crop, resize, clamp and flip an image that begins at ``origin`` of ``source`` to ``image`` (C, H, W)."""
    top, left, box_height, box_width = box
    channels, rows, columns = image.shape
    taps_y, taps_x = num_taps(box_height, resized[0], bicubic), num_taps(box_width, resized[1], bicubic)
    first_y, weights_y = np.empty(rows, np.uint32), np.empty((taps_y, rows), np.float32)
    first_x, weights_x = np.empty(columns, np.uint32), np.empty((taps_x, columns), np.float32)
    planes, step = (1, channels) if interleaved else (channels, 1)
    _filter(box_height, resized[0], corner[0], bicubic, False, taps_y, 1, first_y, weights_y)
    _filter(box_width, resized[1], corner[1], bicubic, flip, taps_x, step, first_x, weights_x)
    stride = width * step
    pitch = (box_width * step + 31) // 32 * 32  # whole vectors; what is beside the box is not looked at
    row = np.zeros(planes * pitch + taps_x * step, np.float32)
    for y in range(rows):
        for p in range(planes):
            begin = origin + (p * height + top) * stride + left * step
            for j in range(0, taps_y, 2):
                a = begin + (first_y[y] + j) * stride
                b = begin + min(first_y[y] + j + 1, box_height - 1) * stride
                n = min(pitch, len(source) - b)
                _vertical(source, a, b, weights_y[j, y], weights_y[j + 1, y], row, p * pitch, n, j > 0)
        _horizontal(row, 1 if interleaved else pitch, step, first_x, weights_x, taps_x, image, y)
    if bicubic:
        for c in range(channels):
            for y in range(rows):
                for x in range(columns):
                    image[c, y, x] = min(max(image[c, y, x], F(0)), WHITE)
