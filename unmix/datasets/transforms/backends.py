"""Views by one of the backends, in the type that is asked for. N images, C channels, H, W pixels; views of h, w."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unmix.datasets.transforms.draws import Draws
from unmix.datasets.transforms.images import to_pil, to_tensor
from unmix.datasets.transforms.numba_form import numba_views
from unmix.datasets.transforms.pil_form import pil_view
from unmix.datasets.transforms.torch_form import torch_views


def write_views(
    backend: str, images: Tensor | Sequence[Tensor], draws: Draws, out: Tensor, mean: np.ndarray, scale: np.ndarray
) -> None:
    """Write one view of each image.

    Args:
        backend: 'numba', 'torch' or 'pil'; images on another device than the CPU are always torch's.
        images: uint8 (N, C, H, W), or N images (C, H, W).
        draws: Parameters of the N views.
        out: (N, C, h, w) of the type of :func:`finished`.
        mean: Of each channel, or one for all.
        scale: Likewise; other views than uint8 are ``(view - mean) * scale``.
    """
    if out.device.type != 'cpu':
        backend = 'torch'
    if backend == 'numba':
        exact = torch.empty(out.shape) if out.dtype == torch.bfloat16 else out
        shifts, factors = (np.array(np.broadcast_to(value, out.shape[1])) for value in (mean, scale))
        numba_views(images, draws, exact, shifts, factors)
        if exact is not out:
            out.copy_(exact)
    elif backend == 'torch' and isinstance(images, Tensor):
        out.copy_(finished(torch_views(images, draws), out.dtype, mean, scale))
    else:
        for n, image in enumerate(images):
            if backend == 'torch':
                view = torch_views(image[None], draws.rows(slice(n, n + 1)))[0]
            else:
                view = to_tensor(pil_view(to_pil(image), draws, n))
            out[n] = finished(view, out.dtype, mean, scale)


def finished(views: Tensor, dtype: torch.dtype, mean: np.ndarray, scale: np.ndarray) -> Tensor:
    """Return views (..., C, h, w) in units of 0 to 255 as uint8, rounded, or as floats ``(view - mean) * scale``."""
    if dtype == torch.uint8:
        return (views + 0.5).to(torch.uint8) if views.is_floating_point() else views
    shift, factor = (torch.from_numpy(np.array(value)).to(views.device).view(-1, 1, 1) for value in (mean, scale))
    return ((views - shift) * factor).to(dtype)
