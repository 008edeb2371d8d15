"""The views of images in one compiled pass. Importing this module compiles it, or loads what was compiled before.

Pixels are float32 in units of 0 to 255. An image is flat: C channels, one after the other, of P pixels. The functions
follow the order of the pass: crop, resize and flip (first the rows of the view, then its columns), changes of colour,
blur, and the loop over the images.
"""

# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: SIM109

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from unmix.datasets.transforms.blur import blur_kernel
from unmix.datasets.transforms.recipe import Op

F, U = np.float32, np.uint64
WHITE = F(255)
fast = njit(fastmath=True, error_model='numpy', nogil=True)
NONE, BRIGHTNESS, CONTRAST, SATURATION, HUE, GREY, SOLARIZE, BLUR = (int(op) for op in Op)
RED, GREEN, BLUE = F(0.299), F(0.587), F(0.114)
_kernel = fast(blur_kernel)
TILE = 1024  # pixels that stay in the fastest cache while they are changed
PARTS = ('blur.py', 'recipe.py')
# One signature: processes that compile different ones at once would mix up numba's cache.
SIGNATURE = (
    'void(uint8[::1], int64[:, ::1], int64[:, ::1], float32[:, ::1], int64, '
    'UniTuple(int64, 2), boolean, boolean, float32[::1], float32[::1], float32[::1], uint8[::1])'
)


@fast
def num_taps(size, resized, bicubic):
    """Pixels that an output is made of, from 2 on, and not 5, 9, 13, ...; of some the weight is 0."""
    taps = int((4.0 if bicubic else 2.0) * max(size / resized, 1.0)) + (1 if size > resized else 0)
    taps = max(min(taps, size), 2)
    return taps + 1 if taps % 4 == 1 else taps


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
    numbers = np.zeros((taps + 2, out), np.float32)
    return np.zeros(out, np.int64), numbers[2:], numbers[0], numbers[1]


@fast
def workspace(boxes, resized, rows, columns, bicubic):
    """Room for any of the boxes (N, 4), each to be resized (N, 2): filters, and a row of a box of three channels."""
    taps_y, taps_x = 4, 2
    for n in range(len(boxes)):
        taps_y = max(taps_y, (num_taps(boxes[n, 2], resized[n, 0], bicubic) + 3) // 4 * 4)
        taps_x = max(taps_x, num_taps(boxes[n, 3], resized[n, 1], bicubic))
    return _filters(rows, taps_y), _filters(columns, taps_x), np.zeros(3 * (boxes[:, 3].max() + 3), np.float32)


@fast
def _mix_rows(source, starts, weights, n, out, o, add):
    """Write the weighted sum of four rows of ``n`` numbers to ``out`` from ``o`` on, or add it to what is there."""
    (a, b, c, d), (p, q, r, s) = starts, weights
    for x in range(n):
        i = U(x)
        total = p * F(source[a + i]) + q * F(source[b + i]) + r * F(source[c + i]) + s * F(source[d + i])
        out[o + i] = total + out[o + i] if add else total


def _mixer(taps: int) -> Any:
    """Return the function that mixes 2, 3 or 4 pixels of a row."""

    @fast
    def mix(line, step, plane, first, weights, j, image, o, area):
        """Make a row of the view, of three channels, of that row of the box, or from j = 4 on add to it."""
        p, q = weights[j], weights[j + 1]
        r, s = weights[j + 2] if taps > 2 else p, weights[j + 3] if taps > 3 else p
        for x in range(len(first)):
            a, i = U(first[x]) + U(j) * step, o + U(x)
            e, f, g, h = p[x], q[x], r[x], s[x]
            for _ in range(3):
                total = e * line[a] + f * line[a + step]
                if taps > 2:
                    total += g * line[a + U(2) * step]
                if taps > 3:
                    total += h * line[a + U(3) * step]
                image[i] = total + image[i] if j > 0 else total
                a, i = a + plane, i + area

    return mix


_mix_two, _mix_three, _mix_four = (_mixer(taps) for taps in (2, 3, 4))


@fast
def resample(source, origin, interleaved, place, image, shape, work):
    """Crop, resize, clamp and flip an image that begins at ``origin`` of ``source``; the view (C, h, w) is ``image``.

    It is (H, W, 3) if it is interleaved, or else (C, H, W) with C of 1 or 3; ``image`` has room for three channels.
    ``line`` is one row of the box after the other, resized in height. What it has beyond the box counts nothing.
    """
    (height, width), box, resized, corner, flip, bicubic = place
    top, left, box_height, box_width = box
    channels, rows, columns = shape
    filter_y, filter_x, line = work
    taps_y = (num_taps(box_height, resized[0], bicubic) + 3) // 4 * 4
    taps_x = num_taps(box_width, resized[1], bicubic)
    step, parts = (3, 1) if interleaved else (1, channels)
    room, pitch = (box_width + 3) * step, width * step
    _filter(box_height, resized[0], corner[0], rows, bicubic, False, 1, taps_y, filter_y)
    _filter(box_width, resized[1], corner[1], columns, bicubic, flip, step, taps_x, filter_x)
    first, weights = filter_y[0], filter_y[1]
    for y in range(rows):
        for part in range(parts):
            begin = origin + part * height * width + (top * width + left) * step
            for j in range(0, taps_y, 4):
                k, last = first[y] + j, box_height - 1
                starts = (
                    U(begin + min(k, last) * pitch),
                    U(begin + min(k + 1, last) * pitch),
                    U(begin + min(k + 2, last) * pitch),
                    U(begin + min(k + 3, last) * pitch),
                )
                mixed = (weights[j, y], weights[j + 1, y], weights[j + 2, y], weights[j + 3, y])
                _mix_rows(source, starts, mixed, box_width * step, line, U(part * room), j > 0)
        o, area = U(y * columns), U(rows * columns)
        plane = U(1 if interleaved else (room if channels == 3 else 0))
        for j in range(0, taps_x, 4):
            if taps_x - j == 2:
                _mix_two(line, U(step), plane, filter_x[0], filter_x[1], j, image, o, area)
            elif taps_x - j == 3:
                _mix_three(line, U(step), plane, filter_x[0], filter_x[1], j, image, o, area)
            else:
                _mix_four(line, U(step), plane, filter_x[0], filter_x[1], j, image, o, area)
    if bicubic:
        for i in range(channels * rows * columns):
            image[i] = min(max(image[i], F(0)), WHITE)


@fast
def change(image, pixels, channels, start, stop, code, value, mean):
    """Change the colours of the pixels from start to stop; ``mean`` is that of the grey image, for the contrast."""
    if code == BRIGHTNESS or code == CONTRAST or code == SOLARIZE:
        shift = (F(1) - value) * mean if code == CONTRAST else F(0)
        for c in range(channels):
            x, n = U(c * pixels + start), stop - start
            if code == SOLARIZE:
                for i in range(n):
                    k = x + U(i)
                    image[k] = WHITE - image[k] if image[k] >= value else image[k]
            elif code == BRIGHTNESS:
                for i in range(n):
                    k = x + U(i)
                    image[k] = min(image[k] * value, WHITE)
            else:
                for i in range(n):
                    k = x + U(i)
                    image[k] = min(max(image[k] * value + shift, F(0)), WHITE)
    elif channels == 3:
        if code == HUE:
            _turn(image, pixels, start, stop, value * F(6))
        elif code == SATURATION or code == GREY:
            keep = F(0) if code == GREY else value
            red, green, blue = U(start), U(pixels + start), U(2 * pixels + start)
            for i in range(stop - start):
                k = U(i)
                r, g, b = image[red + k], image[green + k], image[blue + k]
                grey = (F(1) - keep) * (RED * r + GREEN * g + BLUE * b)
                image[red + k] = min(max(keep * r + grey, F(0)), WHITE)
                image[green + k] = min(max(keep * g + grey, F(0)), WHITE)
                image[blue + k] = min(max(keep * b + grey, F(0)), WHITE)


@fast
def grey_sum(image, pixels, channels, start, stop):
    """Sum of the grey values of the pixels from start to stop."""
    total = F(0)
    red, green, blue = U(start), U(pixels + start), U(2 * pixels + start)
    for i in range(stop - start):
        k = U(i)
        if channels == 3:
            total += RED * image[red + k] + GREEN * image[green + k] + BLUE * image[blue + k]
        else:
            total += image[red + k]
    return total


@fast
def _turn(image, pixels, start, stop, shift):
    """Shift the hue by sixths of a turn, in [-3, 3]; the largest and the least channel keep their values.

    Hues are multiplied by the chroma, so that there is nothing to divide by it.
    """
    red, green, blue = U(start), U(pixels + start), U(2 * pixels + start)
    for i in range(stop - start):
        k = U(i)
        x, y, z = image[red + k], image[green + k], image[blue + k]
        most, least = max(max(x, y), z), min(min(x, y), z)
        chroma = most - least
        hue = y - z if most == x else (F(2) * chroma + z - x if most == y else F(4) * chroma + x - y)
        hue += shift * chroma
        hue = hue + F(6) * chroma if hue < F(0) else hue
        hue = hue - F(6) * chroma if hue >= F(6) * chroma else hue
        image[red + k] = least + min(max(abs(hue - F(3) * chroma) - chroma, F(0)), chroma)
        image[green + k] = least + min(max(F(2) * chroma - abs(hue - F(2) * chroma), F(0)), chroma)
        image[blue + k] = least + min(max(F(2) * chroma - abs(hue - F(4) * chroma), F(0)), chroma)


@fast
def _three_pairs(source, centre, stride, kernel, t, out, begin, n):
    """Add the kernel's next three pairs of pixels, t, t + 1 and t + 2 strides from the centre; begin with the first."""
    k, m, q, w = kernel[t], kernel[t + 1], kernel[t + 2], kernel[0]
    zero, begin = U(centre), U(begin)
    a, b = U(centre - t * stride), U(centre + t * stride)
    c, d = U(centre - (t + 1) * stride), U(centre + (t + 1) * stride)
    e, f = U(centre - (t + 2) * stride), U(centre + (t + 2) * stride)
    for x in range(n):
        i = U(x)
        total = k * (source[a + i] + source[b + i])
        total += m * (source[c + i] + source[d + i])
        total += q * (source[e + i] + source[f + i])
        out[begin + i] = total + (w * source[zero + i] if t == 1 else out[begin + i])


@fast
def blur(image, channels, height, width, sigma):
    """Blur as PIL does, the outermost pixels repeated."""
    kernel = _kernel(sigma)
    radius = len(kernel) - 1  # a multiple of 3
    row = np.empty(width + 2 * radius, np.float32)
    tall = np.empty((height + 2 * radius) * width, np.float32)
    for c in range(channels):
        first = c * height * width
        for y in range(height):
            for x in range(width):
                row[radius + x] = image[first + y * width + x]
            row[:radius] = row[radius]
            row[radius + width :] = row[radius + width - 1]
            for t in range(1, radius, 3):
                _three_pairs(row, radius, 1, kernel, t, tall, (radius + y) * width, width)
        for y in range(radius):
            tall[y * width : (y + 1) * width] = tall[radius * width : (radius + 1) * width]
            end = (radius + height) * width
            tall[end + y * width : end + (y + 1) * width] = tall[end - width : end]
        for t in range(1, radius, 3):
            _three_pairs(tall, radius * width, width, kernel, t, image, first, height * width)


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
        image = np.empty(3 * pixels, np.float32)
        for n in range(len(numbers)):
            origin, height, width = numbers[n, 0], numbers[n, 1], numbers[n, 2]
            box = (numbers[n, 3], numbers[n, 4], numbers[n, 5], numbers[n, 6])
            resized, corner, flip = (numbers[n, 7], numbers[n, 8]), (numbers[n, 9], numbers[n, 10]), numbers[n, 11] != 0
            place = ((height, width), box, resized, corner, flip, bicubic)
            if split > 0:
                early = np.empty(channels * height * width, np.float32)
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
