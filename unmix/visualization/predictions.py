"""How flat the predictions of a network are: its softmax over the other images, sorted."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmix.utils.files import atomic_path
from unmix.visualization.embedding import unit_rows
from unmix.visualization.figure import new_figure

_BLOCK = 1024  # images at once


class Predictions(NamedTuple):
    """Predictions of a network, averaged over images.

    Attributes:
        sorted: (N - 1,) mean probability by rank, the largest first.
        entropy: Mean entropy of the predictions in nats, from 0 to ``log(N - 1)``.
    """

    sorted: Tensor
    entropy: float

    @property
    def share(self) -> float:
        """Entropy as a share of that of the flat distribution."""
        return self.entropy / float(np.log(len(self.sorted)))


@torch.no_grad()
def predictions(features: Tensor | np.ndarray, temperature: float = 0.2) -> Predictions:
    """Return which of the other images a network takes for an image: ``softmax_m(cos(z_n, z_m) / temperature)``.

    That is the prediction of instance discrimination and contrastive learning, without the positive pair. Un-Mix is
    said to make it flatter (`Un-Mix <https://arxiv.org/abs/2003.05438>`_, 2020, Fig. 3).

    Args:
        features: (N, D) of N images, N at least 3.
        temperature: Of the softmax; networks are compared at the same one.

    Raises:
        ValueError: If there are fewer images, the temperature is not positive, or features are not finite.
    """
    rows = unit_rows(features)
    if len(rows) < 3:
        raise ValueError(f'Predictions among {len(rows)} images; expected 3 or more.')
    if not temperature > 0:
        raise ValueError(f'The temperature is {temperature}; expected a positive number.')
    total, entropy = torch.zeros(len(rows) - 1, dtype=torch.float64), 0.0
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        logits = (block @ rows.T).double() / temperature
        own = torch.arange(len(block))
        logits[own, start + own] = -torch.inf
        logs = logits.log_softmax(1).sort(1, descending=True).values[:, :-1]
        total += logs.exp().sum(0)
        entropy -= float((logs.exp() * logs).sum())
    return Predictions(total / len(rows), entropy / len(rows))


def draw_predictions(found: Mapping[str, Predictions], temperature: float, out: str | Path) -> None:
    """Draw the sorted predictions of networks to a picture, both axes logarithmic.

    Args:
        found: By the name of the network; the same images for all.
        temperature: Of the softmax.
        out: The picture.
    """
    number = len(next(iter(found.values())).sorted)
    figure = new_figure(figsize=(7, 4.5), layout='constrained')
    title = f'Softmax over {number} other images, temperature {temperature:g}, sorted, mean over images'
    axes = figure.add_subplot(title=title, xlabel='rank of the other image', ylabel='probability')
    axes.title.set_fontsize(10)
    ranks = np.arange(1, number + 1)
    for name, one in found.items():
        axes.loglog(ranks, one.sorted, label=f'{name}: entropy {one.entropy:.2f} nats, {one.share:.1%} of flat')
    axes.axhline(1 / number, color='gray', linestyle=':', linewidth=1, label='flat')
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    with atomic_path(out) as path:
        figure.savefig(path, dpi=120)
