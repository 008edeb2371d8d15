"""Views by numba: the calls of the compiled kernel."""

import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from torch import Tensor

from unmix.datasets.transforms.draws import Draws

FLOATS, BYTES = np.empty(0, np.float32), np.empty(0, np.uint8)


@lru_cache
def kernel() -> Callable[..., None] | None:
    """Return the kernel, which the first call of all compiles (10 s) and keeps on disk; None, with a warning, if numba
    does not work.
    """
    try:
        from unmix.datasets.transforms.numba_kernel import views
    except Exception as error:  # numba is missing, or does not work with this machine's LLVM or numpy
        warnings.warn(
            f'Views are made by torch, not by numba, which is several times faster, because numba does not work here '
            f'({type(error).__name__}: {error}). Install numba>=0.60, or set the pipeline to backend="torch".',
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return views


def numba_views(
    images: Tensor | Sequence[Tensor], draws: Draws, out: Tensor, mean: np.ndarray, scale: np.ndarray
) -> None:
    """Write one view of each image.

    Args:
        images: uint8 (N, C, H, W) or N images (C, H, W), on the CPU; the strides may be those of (H, W, C).
        draws: Parameters of the N views.
        out: (N, C, h, w) uint8, rounded; or float32, ``(view - mean) * scale``.
        mean: (C,) float32.
        scale: (C,) float32.
    """
    views = kernel()
    assert views is not None
    sizes = [tuple(image.shape[1:]) for image in images] if not isinstance(images, Tensor) else [images.shape[2:]]
    num = len(images)
    numbers = np.empty((num, 12), np.int64)
    numbers[:, 1:3] = sizes
    numbers[:, 3:7], numbers[:, 7:9] = draws.boxes, draws.resized
    numbers[:, 9:11], numbers[:, 11] = draws.corners, draws.flips
    flat, view = out.view(-1).numpy(), out[0].numel()
    parts = (
        [(images, slice(0, num))]
        if isinstance(images, Tensor)
        else [(x[None], slice(i, i + 1)) for i, x in enumerate(images)]
    )
    for part, rows in parts:
        source, interleaved = _flat(part)
        numbers[rows, 0] = np.arange(len(part)) * (len(source) // len(part))
        target = flat[rows.start * view : rows.stop * view]
        views(
            source,
            numbers[rows],
            draws.codes[rows],
            draws.values[rows],
            draws.split,
            draws.size,
            interleaved,
            draws.bicubic,
            mean,
            scale,
            target if target.dtype == np.float32 else FLOATS,
            target if target.dtype == np.uint8 else BYTES,
        )


def _flat(images: Tensor) -> tuple[np.ndarray, bool]:
    """Return the bytes of (N, C, H, W) in the order in which they lie, and whether that is (N, H, W, 3)."""
    last = images.permute(0, 2, 3, 1)
    if images.shape[1] == 3 and last.is_contiguous():
        return last.numpy().reshape(-1), True
    return images.contiguous().numpy().reshape(-1), False
