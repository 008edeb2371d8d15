"""A sheet of what the network sees."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unmix.utils.files import atomic_path


def denormalize(images: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """Undo ``(image - mean) / std``: images (N, C, H, W) in [0, 1], given mean and std in the units 0 to 255."""
    if mean is not None and std is not None:
        images = images * std + mean
    return (images / 255).clamp(0, 1)


def draw_views(
    views: Sequence[Tensor], out: str | Path, mixture: Tensor | None = None, lam: float | None = None
) -> None:
    """Draw a sheet: one column an image, one row a view, and the mixtures with their partners below.

    Args:
        views: Each (N, C, H, W) in [0, 1], of any size; C = 3 is drawn in colour, another C as the grey mean.
        out: The PNG.
        mixture: (N, C, H, W) in [0, 1], mixture n of image n and image N - 1 - n of view 0.
        lam: Share of image n in it.
    """
    rows = [(f'view {i + 1}', view) for i, view in enumerate(views)]
    if mixture is not None:
        share = '' if lam is None else f'\nλ = {lam:.2f}'
        rows += [('partner', views[0].flip(0)), (f'mixture{share}', mixture)]
    columns = len(views[0])
    from matplotlib.figure import Figure  # slow to import

    figure = Figure(figsize=(1.1 * columns + 0.9, 1.1 * len(rows)), layout='constrained')
    for axes_row, (label, images) in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
        for axes, image in zip(axes_row, images, strict=True):
            axes.imshow(_to_numpy(image), cmap='gray', vmin=0, vmax=1, interpolation='nearest')
            axes.set(xticks=[], yticks=[])
        axes_row[0].set_ylabel(label, rotation=0, ha='right', va='center')
    with atomic_path(out) as path:
        figure.savefig(path, dpi=120)


def _to_numpy(image: Tensor) -> np.ndarray:
    image = image.detach().to('cpu', torch.float32)
    return (image.permute(1, 2, 0) if len(image) == 3 else image.mean(0)).numpy()
