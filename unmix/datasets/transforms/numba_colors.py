"""Changes of colour and the blur, compiled by numba; part of ``numba_kernel``. Pixels are float32 in units of 0 to 255.

An image is flat: C channels, one after the other, of P pixels.
"""

# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: SIM109

import numpy as np

from unmix.datasets.transforms.blur import blur_kernel
from unmix.datasets.transforms.numba_resample import WHITE, F, U, fast

NONE, BRIGHTNESS, CONTRAST, SATURATION, HUE, GREY, SOLARIZE, BLUR = range(8)  # as draws.Op, which numba cannot read
RED, GREEN, BLUE = F(0.299), F(0.587), F(0.114)
_kernel = fast(blur_kernel)


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
