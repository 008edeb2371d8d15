"""The compiled kernel on random images and parameters: what it computes, and that it reads nothing beyond an image."""

import ctypes
import mmap
import sys

import numpy as np
import pytest
import torch

from unmix.datasets.transforms.backends import numba_views
from unmix.datasets.transforms.recipe import Draws, Op
from unmix.datasets.transforms.torch_form import torch_views

pytest.importorskip('numba')
RNG = np.random.default_rng(0)


def at_the_end_of_memory(data: np.ndarray) -> np.ndarray:
    """Copy data to where reading on would end the process."""
    room = -(-data.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = np.frombuffer(mmap.mmap(-1, room + mmap.PAGESIZE), np.uint8)
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(pages.ctypes.data + room), mmap.PAGESIZE, 0) == 0
    copy = pages[room - data.nbytes : room].reshape(data.shape)
    copy[:] = data
    return copy


def random_draws(num: int, height: int, width: int) -> Draws:
    size, whole = RNG.integers(1, 40, 2), np.array([height, width])
    boxes = 1 + (RNG.random((num, 2)) * whole).astype(np.int64)
    corners = ((whole - boxes) * RNG.choice([RNG.random(), 1.0])).astype(np.int64)  # often the last pixel is in the box
    resized = size + RNG.integers(0, 5, (num, 2))
    codes = RNG.choice([op for op in Op if op != Op.SOLARIZE], (num, 4)).astype(
        np.int64
    )  # it turns rounding into white
    values = np.where(codes == Op.HUE, RNG.uniform(-0.5, 0.5, codes.shape), RNG.uniform(0.2, 1.5, codes.shape))
    return Draws(
        boxes=np.concatenate([corners, boxes], 1),
        resized=resized,
        corners=(RNG.random((num, 2)) * (resized - size + 1)).astype(np.int64),
        flips=RNG.random(num) < 0.5,
        codes=codes,
        values=values.astype(np.float32),
        split=int(RNG.integers(0, 3)),
        size=(int(size[0]), int(size[1])),
        bicubic=bool(RNG.integers(2)),
    )


@pytest.mark.skipif(sys.platform != 'linux', reason='protects pages as Linux does')
@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('channels', [1, 3])
def test_random_views_of_images_at_the_end_of_memory(channels: int, channels_last: bool) -> None:
    for _ in range(60):
        num, height, width = (int(n) for n in RNG.integers(1, (4, 40, 40)))
        shape = (num, height, width, channels) if channels_last else (num, channels, height, width)
        images = torch.from_numpy(at_the_end_of_memory(RNG.integers(0, 256, shape).astype(np.uint8)))
        images = images.permute(0, 3, 1, 2) if channels_last else images
        draws = random_draws(num, height, width)
        found = torch.empty(num, channels, *draws.size)
        numba_views(images, draws, found, np.zeros(channels, np.float32), np.ones(channels, np.float32))
        torch.testing.assert_close(found, torch_views(images, draws), rtol=0, atol=2e-3)
