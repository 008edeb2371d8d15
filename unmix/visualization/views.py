"""Sheet of views and mixtures, as the network sees them."""

from collections.abc import Sequence
from pathlib import Path

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
    """Draw a sheet: one column per image, one row per view, and below the mixtures with their partners.

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
            pixels = image.detach().to('cpu', torch.float32)
            pixels = pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels.mean(0)
            axes.imshow(pixels.numpy(), cmap='gray', vmin=0, vmax=1, interpolation='nearest')
            axes.set(xticks=[], yticks=[])
        axes_row[0].set_ylabel(label, rotation=0, ha='right', va='center')
    with atomic_path(out) as path:
        figure.savefig(path, dpi=120)
