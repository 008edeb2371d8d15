"""Sheet of views and mixtures, as the network sees them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from unmix.mixing import KeptPatches
from unmix.models import BaseAlgorithm
from unmix.utils.clock import Step
from unmix.utils.files import atomic_path
from unmix.visualization.figure import new_figure

_LONGEST = 18  # characters of a name over an image
_STEPS = 100  # of a run that are looked at for mixtures of both kinds


class Mixture(NamedTuple):
    """Mixtures of images of a batch with their partners.

    Attributes:
        images: (M, C, h, w), mixture n of image n and its partner; 0 in patches that are not encoded.
        partner: Share of the partner in each pixel of the unscaled mixtures, (H, W), or (M, H, W) where they differ.
        lam: Share of image n in mixture n that weights the loss; one for all, or one for each, (M,).
        iteration: Training step that it was drawn for.
        others: Numbers (M,) of the partners; None: those of the batch in reverse order.
    """

    images: Tensor
    partner: Tensor
    lam: float | Tensor
    iteration: int
    others: Tensor | None = None

    def box_of(self, n: int) -> tuple[int, int, int, int] | None:
        """Box ``(top, bottom, left, right)``, half-open, of mixture n that is the partner's alone; None if blended."""
        partner = self.partner if self.partner.ndim == 2 else self.partner[n]
        rows, columns = (partner == 1).nonzero(as_tuple=True)
        if not len(rows) or (partner[partner != 1] != 0).any():
            return None
        return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """That of all mixtures, or of the first one; see :meth:`box_of`."""
        return self.box_of(0)

    @property
    def kind(self) -> str:
        """``'region'`` or ``'global'``; of the first mixture, where they differ."""
        return 'global' if self.box is None and self.partner.any() else 'region'


@torch.no_grad()
def draws_of_a_run(model: BaseAlgorithm, inputs: Sequence[Tensor], seed: int, each: int = 2) -> list[Mixture]:
    """Return mixtures as the first steps of a run draw them, ``each`` of both kinds if there are so many; none without.

    Args:
        model: The method with its Un-Mix.
        inputs: Views of some images, each (N, C, H, W), N even, as the network sees them.
        seed: The run's.
        each: Number of global ones, and of region ones.
    """
    found: list[Mixture] = []
    if model.unmix is None:
        return found
    before, unmix = model.step, model.unmix
    numbers = torch.arange(len(inputs[0]), device=inputs[0].device)
    probes = [numbers.to(view.dtype).view(-1, 1, 1, 1).expand_as(view) for view in inputs]  # images of their number
    try:
        for iteration in range(0, _STEPS * unmix.every, unmix.every):
            model.step = Step(seed, iteration)
            mixed, lam = model.mix(model.views(inputs))
            with patch.multiple(unmix, size=1.0, patch_drop=0.0):
                blend, _ = model.mix(model.views(probes))
            mixed, blend = (crops[0] if isinstance(crops, list) else crops for crops in (mixed, blend))
            mixed = mixed.shown() if isinstance(mixed, KeptPatches) else mixed
            own, others = model.partners.first(numbers), model.partners.second(numbers)
            apart = (others - own).view(-1, 1, 1)
            shares = torch.where(apart == 0, 0.0, (blend[:, 0] - own.view(-1, 1, 1)) / apart).cpu()
            if unmix.shares == 'batch':
                shares = shares[int((others != own).int().argmax())]  # an image that is its own partner shows none
                lam = float(lam if isinstance(lam, float) else lam.flatten()[0])
            order = others.cpu() if unmix.partner == 'random' else None
            mixture = Mixture(mixed, shares, lam, iteration, order)
            if sum(other.kind == mixture.kind for other in found) < each:
                found.append(mixture)
            if len(found) == 2 * each:
                break
    finally:
        model.step = before
    return sorted(found, key=lambda mixture: mixture.kind)


def draw_views(
    views: Sequence[Tensor],
    out: str | Path,
    mixtures: Sequence[Mixture] = (),
    title: str = '',
    names: Sequence[str] | None = None,
) -> None:
    """Draw a sheet: one column per image, one row per view, and below the partners and mixtures.

    The box of a region mixture has an outline. Where each image has a share of its own, the share is above it.

    Args:
        views: Each (N, C, H, W) in [0, 1], of any size; C = 3 is drawn in colour, another C as the grey mean.
        out: The PNG.
        mixtures: Of view 0, in [0, 1].
        title: What was run.
        names: Of the images (default: their numbers). They are over the views, and over the partners.
    """
    rows: list[tuple[str, Tensor, Mixture | None]] = [(f'view {i + 1}', view, None) for i, view in enumerate(views)]
    shown: Tensor | None = None  # the partners of the row above
    reverse = torch.arange(len(views[0])).flip(0)
    for m in mixtures:
        others = reverse if m.others is None else m.others
        if shown is None or not torch.equal(others, shown):
            rows.append(('partner\n(of view 1)', views[0][others.to(views[0].device)], None))
            shown = others
        share = f'{m.kind}, λ = {m.lam:.2f}' if isinstance(m.lam, float) else 'a λ each'
        rows.append((f'{share}\nstep {m.iteration + 1}', m.images, m))
    columns = len(views[0])
    figure = new_figure(figsize=(1.1 * columns + 1.3, 1.1 * len(rows) + (0.4 if title else 0)), layout='constrained')
    from matplotlib.patches import Rectangle

    figure.suptitle(title, parse_math=False)
    sheet = figure.subplots(len(rows), columns, squeeze=False)
    names = [f'image {number}' for number in range(1, columns + 1)] if names is None else names
    for axes, name in zip(sheet[0], names, strict=True):
        axes.set_title(_short(name), fontsize=7, parse_math=False)
    if mixtures:
        for axes, name in zip(sheet[len(views)], reversed(names), strict=True):
            axes.set_title(_short(name), fontsize=7, parse_math=False)
    for axes_row, (label, images, mixture) in zip(sheet, rows, strict=True):
        for axes in axes_row[len(images) :]:  # each pair is mixed once
            axes.set_axis_off()
        for n, (axes, image) in enumerate(zip(axes_row, images, strict=False)):
            axes.imshow(_pixels(image), cmap='gray', vmin=0, vmax=1, interpolation='nearest')
            axes.set(xticks=[], yticks=[])
            if mixture is None:
                continue
            if not isinstance(mixture.lam, float):
                axes.set_title(f'{float(mixture.lam[n]):.2f}', fontsize='x-small', pad=1)
            box = mixture.box_of(n)
            if box is not None:
                scale = image.shape[-1] / mixture.partner.shape[-1]
                top, bottom, left, right = (scale * edge for edge in box)
                corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
                axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor='tab:orange', linewidth=1.2))
        axes_row[0].set_ylabel(label, rotation=0, ha='right', va='center')
    with atomic_path(out) as path:
        figure.savefig(path, dpi=120)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f'…{name[1 - _LONGEST :]}'


def _pixels(image: Tensor) -> np.ndarray:
    pixels = image.detach().to('cpu', torch.float32).clamp(0, 1)
    return (pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels.mean(0)).numpy()
