"""Random numbers of instances, drawn on the device."""

import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # splitmix64's constants, as signed 64-bit integers
_FIRST, _SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def random_bits(key: int, index: Tensor, num: int) -> Tensor:
    """Draw ``num`` times 53 bits for each instance: (N, num) int64, ``[n, j]`` a function of (key, index[n], j).

    splitmix64 in counter mode as in :func:`unmix.utils.uniforms`, on the device of ``index``. So the negatives of an
    instance do not depend on its place in the batch, or on the number of processes.

    Args:
        key: 64 bits.
        index: (N,) int64.
        num: Numbers per instance.
    """
    key = key - (1 << 64) if key >= 1 << 63 else key
    counter = torch.arange(1, num + 1, device=index.device) * _GOLDEN
    state = _mix((index + 1) * _GOLDEN + key)
    return _shift(_mix(state[:, None] + counter), 11)


def _shift(bits: Tensor, by: int) -> Tensor:
    """Shift right and fill with zeros; torch's own shift keeps the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    """Apply splitmix64's finaliser; products wrap."""
    bits = (bits ^ _shift(bits, 30)) * _FIRST
    bits = (bits ^ _shift(bits, 27)) * _SECOND
    return bits ^ _shift(bits, 31)
