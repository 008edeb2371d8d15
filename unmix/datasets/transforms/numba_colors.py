"""Changes of colour and the blur, compiled by numba; part of ``numba_kernel``. Pixels are float32 in units of 0 to 255.

An image is (C, P): C channels of P = H * W pixels.
"""

# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: SIM109

import numpy as np

from unmix.datasets.transforms.blur import blur_kernel
from unmix.datasets.transforms.numba_resample import WHITE, F, fast

NONE, BRIGHTNESS, CONTRAST, SATURATION, HUE, GREY, SOLARIZE, BLUR = range(8)  # as draws.Op, which numba cannot read
RED, GREEN, BLUE = F(0.299), F(0.587), F(0.114)
_kernel = fast(blur_kernel)


@fast
def change(image, start, stop, code, value, mean):
    """Change the colours of the pixels from start to stop; ``mean`` is that of the grey image, for the contrast."""
    channels, n = len(image), stop - start
    if code == BRIGHTNESS or code == CONTRAST or code == SOLARIZE:
        shift = (F(1) - value) * mean if code == CONTRAST else F(0)
        for c in range(channels):
            x = image[c][start:stop]
            if code == SOLARIZE:
                for i in range(n):
                    x[i] = WHITE - x[i] if x[i] >= value else x[i]
            else:
                for i in range(n):
                    x[i] = min(max(x[i] * value + shift, F(0)), WHITE)
    elif channels == 3:
        r, g, b = image[0][start:stop], image[1][start:stop], image[2][start:stop]
        if code == SATURATION or code == GREY:
            keep = F(0) if code == GREY else value
            for i in range(n):
                grey = (F(1) - keep) * (RED * r[i] + GREEN * g[i] + BLUE * b[i])
                r[i] = min(max(keep * r[i] + grey, F(0)), WHITE)
                g[i] = min(max(keep * g[i] + grey, F(0)), WHITE)
                b[i] = min(max(keep * b[i] + grey, F(0)), WHITE)
        elif code == HUE:
            _turn(r, g, b, value * F(6), n)


@fast
def grey_sum(image, start, stop):
    """Sum of the grey values of the pixels from start to stop."""
    total, n = F(0), stop - start
    if len(image) == 3:
        r, g, b = image[0][start:stop], image[1][start:stop], image[2][start:stop]
        for i in range(n):
            total += RED * r[i] + GREEN * g[i] + BLUE * b[i]
    else:
        for c in range(len(image)):
            x = image[c][start:stop]
            for i in range(n):
                total += x[i]
        total /= F(len(image))
    return total


@fast
def _turn(r, g, b, shift, n):
    """Shift the hue by sixths of a turn, in [-3, 3]; the largest and the least channel keep their values."""
    for i in range(n):
        x, y, z = r[i], g[i], b[i]
        most, least = max(max(x, y), z), min(min(x, y), z)
        chroma = most - least
        inverse = F(1) / max(chroma, F(1e-6))
        hue_x, hue_y, hue_z = (y - z) * inverse, F(2) + (z - x) * inverse, F(4) + (x - y) * inverse
        hue = shift + (hue_x if most == x else (hue_y if most == y else hue_z))
        hue = hue + F(6) if hue < F(0) else hue
        hue = hue - F(6) if hue >= F(6) else hue
        r[i] = least + chroma * min(max(abs(hue - F(3)) - F(1), F(0)), F(1))
        g[i] = least + chroma * min(max(F(2) - abs(hue - F(2)), F(0)), F(1))
        b[i] = least + chroma * min(max(F(2) - abs(hue - F(4)), F(0)), F(1))


@fast
def _three_pairs(source, centre, stride, kernel, t, out, begin, n):
    """Add the kernel's next three pairs of pixels, t, t + 1 and t + 2 strides from the centre; begin with the first."""
    k, m, q, w = kernel[t], kernel[t + 1], kernel[t + 2], kernel[0]
    zero, begin = np.uint64(centre), np.uint64(begin)
    a, b = np.uint64(centre - t * stride), np.uint64(centre + t * stride)
    c, d = np.uint64(centre - (t + 1) * stride), np.uint64(centre + (t + 1) * stride)
    e, f = np.uint64(centre - (t + 2) * stride), np.uint64(centre + (t + 2) * stride)
    for x in range(n):
        i = np.uint64(x)
        total = k * (source[a + i] + source[b + i])
        total += m * (source[c + i] + source[d + i])
        total += q * (source[e + i] + source[f + i])
        out[begin + i] = total + (w * source[zero + i] if t == 1 else out[begin + i])


@fast
def blur(image, height, width, sigma):
    """Blur as PIL does, the outermost pixels repeated."""
    kernel = _kernel(sigma)
    radius = len(kernel) - 1  # a multiple of 3
    row = np.empty(width + 2 * radius, np.float32)
    tall = np.empty((height + 2 * radius) * width, np.float32)
    for c in range(len(image)):
        channel = image[c]
        for y in range(height):
            for x in range(width):
                row[radius + x] = channel[y * width + x]
            row[:radius] = row[radius]
            row[radius + width :] = row[radius + width - 1]
            for t in range(1, radius, 3):
                _three_pairs(row, radius, 1, kernel, t, tall, (radius + y) * width, width)
        for y in range(radius):
            tall[y * width : (y + 1) * width] = tall[radius * width : (radius + 1) * width]
            end = (radius + height) * width
            tall[end + y * width : end + (y + 1) * width] = tall[end - width : end]
        for t in range(1, radius, 3):
            _three_pairs(tall, radius * width, width, kernel, t, channel, 0, height * width)
