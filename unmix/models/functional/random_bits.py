"""Random integers for each instance, computed on the device."""

import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # splitmix64's constants, as signed 64-bit integers
_FIRST, _SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def random_bits(key: int, index: Tensor, num: int) -> Tensor:
    """Return 53 random bits ``num`` times for each instance, (N, num) int64; ``[n, j]`` depends on (key, index[n], j).

    The generator is splitmix64 in counter mode, as in :func:`unmix.utils.rng.uniforms`, and runs on the device of
    ``index``. So the negatives of an instance do not depend on its place in the batch or on the number of processes.

    Args:
        key: An integer in [0, 2^64).
        index: Instance ids (N,) int64.
        num: Numbers per instance.
    """
    key = key - (1 << 64) if key >= 1 << 63 else key
    counter = torch.arange(1, num + 1, device=index.device) * _GOLDEN
    state = _mix((index + 1) * _GOLDEN + key)
    return _shift(_mix(state[:, None] + counter), 11)


def _shift(bits: Tensor, by: int) -> Tensor:
    """Shift right and fill with zeros; torch's shift repeats the sign bit."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """Apply the finaliser of splitmix64; products are modulo 2^64."""
    bits = (bits ^ _shift(bits, 30)) * _FIRST
    bits = (bits ^ _shift(bits, 27)) * _SECOND
    return bits ^ _shift(bits, 31)
