"""Random numbers that are a function of their purpose only.

A purpose is a tuple such as ``('augmentation', seed, epoch, index, view)``. A draw does not depend on the process that
makes it, the number of processes, earlier draws, or interruptions of the run.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

_PLAIN = {int, str}
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: the step of splitmix64's counter


def stream(*purpose: int | str) -> int:
    """Return a 64-bit hash (BLAKE2b) of a purpose; 1 and '1' differ, and so do ('a', 'b') and ('ab',)."""
    if not {*map(type, purpose)} <= _PLAIN:  # it is called for each view of each image
        purpose = tuple(int(part) if isinstance(part, Integral) else str(part) for part in purpose)
    return int.from_bytes(hashlib.blake2b(repr(purpose).encode(), digest_size=8).digest(), 'little')


def generator(*purpose: int | str) -> np.random.Generator:
    """Return a generator (Philox, keyed by the purpose) that always starts at the same place."""
    return np.random.Generator(np.random.Philox(key=stream(*purpose)))


def uniforms(key: int | np.ndarray, index: np.ndarray, num: int) -> np.ndarray:
    """Draw ``num`` numbers for each index: float64 (N, num) in [0, 1), ``[n, j]`` a function of (key, index[n], j).

    splitmix64 (`Steele et al. 2014 <https://doi.org/10.1145/2660193.2660195>`_) in counter mode: each (key, index) has
    state ``s = mix(key + (index + 1) * golden)``, and its j-th output is ``mix(s + (j + 1) * golden)``.

    Args:
        key: 64 bits, from :func:`stream`; or (N,) uint64, one for each index.
        index: (N,) integers.
        num: Numbers per index.

    Returns:
        The numbers; those of a column lie together in memory.
    """
    counter = np.arange(1, num + 1, dtype=np.uint64) * _GOLDEN
    state = np.asarray(key, np.uint64) + (np.asarray(index).astype(np.uint64) + np.uint64(1)) * _GOLDEN
    bits = _mix(_mix(state) + counter[:, None])
    return ((bits >> np.uint64(11)) * 2.0**-53).T


def _mix(bits: np.ndarray) -> np.ndarray:
    """Apply splitmix64's bijective finaliser to 64-bit integers."""
    bits = bits ^ (bits >> np.uint64(30))
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return bits


def to_device(numbers: np.ndarray, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Copy numbers that were drawn on the host to a device; the host does not wait for a GPU.

    Args:
        numbers: Of any shape.
        device: The device.
        dtype: Of the tensor; None: that of the numbers.
    """
    tensor = torch.as_tensor(numbers, dtype=dtype)
    if device.type == 'cuda':  # a copy from pageable memory would wait
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def reseed(*purpose: int | str) -> None:
    """Seed the global generators of ``random``, numpy and torch (CPU) from a purpose.

    For code that draws from them and takes no generator, such as torchvision's transforms.
    """
    seed = stream(*purpose)
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs as well


def reseed_step(seed: int, iteration: int, rank: int) -> None:
    """Seed all global generators, CUDA's too, for one training step; dropout and the like draw from them.

    Args:
        seed: The run's.
        iteration: Training iterations done.
        rank: Of the process.
    """
    reseed('step', seed, iteration, rank)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(stream('step', seed, iteration, rank))


@contextmanager
def preserved() -> Iterator[None]:
    """Restore the global generators after the block."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextmanager
def seeded(*purpose: int | str) -> Iterator[None]:
    """Seed the global generators for a block, and restore them after it."""
    with preserved():
        reseed(*purpose)
        yield
