"""Nearest neighbours of images, by their features."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmix.utils.files import atomic_path
from unmix.utils.names import shown
from unmix.visualization.figure import new_figure

_BLOCK = 2**16  # rows that are compared at once
_TILE, _FRAME, _GAP = 64, 4, 16  # pixels of an image, of its frame, between a query and its neighbours
_SAME, _OTHER, _PLAIN = (46, 139, 87), (205, 92, 0), (160, 160, 160)
_DPI = 100


@torch.no_grad()
def nearest(features: Tensor | np.ndarray, queries: Tensor | np.ndarray, k: int) -> Tensor:
    """Return the rows that are nearest to each query by cosine similarity, the nearest first.

    Of equally near rows the first comes first.

    Args:
        features: (N, D); on any device, on which the search runs.
        queries: (Q, D).
        k: Number of neighbours; all if there are fewer.

    Returns:
        (Q, min(k, N)) int64 on the host.

    Raises:
        ValueError: If k is not positive, or widths differ.
    """
    return nearest_with_similarity(features, queries, k)[1]


def nearest_with_similarity(
    features: Tensor | np.ndarray, queries: Tensor | np.ndarray, k: int
) -> tuple[Tensor, Tensor]:
    """Return the cosine similarities (Q, K) float32 of the rows of :func:`nearest`, and these rows."""
    bank, asked = torch.as_tensor(features), torch.as_tensor(queries)
    if k < 1:
        raise ValueError(f'The number of neighbours is {k}; expected 1 or more.')
    if bank.ndim != 2 or asked.ndim != 2 or bank.shape[1] != asked.shape[1]:
        raise ValueError(
            f'Features of shape {tuple(bank.shape)} and queries of shape {tuple(asked.shape)}; expected (images, '
            'dimensions) with as many dimensions.'
        )
    asked = torch.nn.functional.normalize(asked.to(bank.device).float())
    near, rows = asked.new_empty(len(asked), 0), torch.empty(len(asked), 0, dtype=torch.long, device=bank.device)
    for start in range(0, len(bank), _BLOCK):
        block = torch.nn.functional.normalize(bank[start : start + _BLOCK].float())
        near = torch.cat([near, asked @ block.T], 1)
        rows = torch.cat([rows, torch.arange(start, start + len(block), device=rows.device).expand(len(asked), -1)], 1)
        near, order = near.sort(stable=True, dim=1, descending=True)
        near, rows = near[:, :k], rows.gather(1, order[:, :k])
    return near.cpu(), rows.cpu()


class Neighbourhood(NamedTuple):
    """An image and those nearest to it.

    Attributes:
        image: The query.
        neighbours: The nearest first.
        same: Whether each neighbour is of the query's class; None without labels.
        name: Of the query or its class.
    """

    image: Image.Image
    neighbours: Sequence[Image.Image]
    same: Sequence[bool] | None = None
    name: str = ''


def draw_neighbours(rows: Sequence[Neighbourhood], out: str | Path, title: str = '') -> None:
    """Draw a sheet: a row for each image, which stands on the left, and its neighbours, the nearest first.

    The frame of a neighbour is green if it is of the same class, orange if not, grey without labels.

    Args:
        rows: The images; small ones are enlarged, large ones reduced to 64 pixels.
        out: The PNG.
        title: What was run.

    Raises:
        ValueError: If there are no rows.
    """
    if not rows:
        raise ValueError('There are no images to show neighbours of.')
    side = _TILE + 2 * _FRAME
    columns = max(len(row.neighbours) for row in rows)
    sheet = Image.new('RGB', (side + _GAP + columns * side, len(rows) * side), 'white')
    for number, row in enumerate(rows):
        sheet.paste(_framed(row.image, _PLAIN), (0, number * side))
        same: Sequence[bool | None] = row.same or [None] * len(row.neighbours)
        for place, (image, equal) in enumerate(zip(row.neighbours, same, strict=True)):
            colour = _PLAIN if equal is None else _SAME if equal else _OTHER
            sheet.paste(_framed(image, colour), (side + _GAP + place * side, number * side))
    names = [shown(row.name) for row in rows]
    left, top = (110 if any(names) else 8), 40 if title else 8
    legend = 24 if any(row.same is not None for row in rows) else 8
    width, height = sheet.width + left + 8, sheet.height + top + legend
    figure = new_figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor='white')
    figure.figimage(np.asarray(sheet), left, legend)
    figure.text(0.5, 1 - 12 / height, title, ha='center', va='top', fontsize=9, parse_math=False)
    for number, name in enumerate(names):
        y = 1 - (top + (number + 0.5) * side) / height
        figure.text((left - 6) / width, y, _short(name), ha='right', va='center', fontsize=8, parse_math=False)
    if legend > 8:
        words = 'left: image; then the nearest first; green: same class, orange: another'
        figure.text(0.5, 6 / height, words, ha='center', va='bottom', fontsize=8)
    with atomic_path(out) as path, warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing')  # a box stands for it
        figure.savefig(path, dpi=_DPI)


def _framed(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Return an image in the middle of a white square with a frame."""
    image = image.convert('RGB')
    factor = _TILE / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    image = image.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX)
    tile = Image.new('RGB', (_TILE + 2 * _FRAME,) * 2, colour)
    tile.paste((255, 255, 255), (_FRAME, _FRAME, _FRAME + _TILE, _FRAME + _TILE))
    tile.paste(image, (_FRAME + (_TILE - image.width) // 2, _FRAME + (_TILE - image.height) // 2))
    return tile


def _short(name: str) -> str:
    return name if len(name) <= 18 else f'{name[:17]}…'
