"""The mixture of a batch with its reversal."""

import math

import numpy as np
from torch import Tensor


def mix(images: Tensor, rng: np.random.Generator, prob: float) -> tuple[Tensor, float]:
    """Return the mixtures of images (N, C, H, W), and the share of each image in its mixture."""
    draw, lam = rng.random(), float(rng.beta(1.0, 1.0))
    if draw < prob:
        return lam * images + (1 - lam) * images.flip(0), lam
    height, width = images.shape[2:]
    row, column = int(rng.integers(height)), int(rng.integers(width))
    half_height = int(height * math.sqrt(1 - lam)) // 2
    half_width = int(width * math.sqrt(1 - lam)) // 2
    top, bottom = (min(max(row + sign * half_height, 0), height) for sign in (-1, 1))
    left, right = (min(max(column + sign * half_width, 0), width) for sign in (-1, 1))
    mixture = images.clone()
    mixture[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
    return mixture, 1 - (bottom - top) * (right - left) / (height * width)
