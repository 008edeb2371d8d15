"""Curves as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unmix.utils.files import atomic_path
from unmix.visualization.figure import new_figure
from unmix.visualization.page import Plot

_ROW = 4  # panels
_FEW = 30  # points, up to which each has a dot


def draw_curves(plots: Sequence[Plot], out: str | Path, title: str = '') -> None:
    """Draw plots beside each other to a PNG; those without points are left out.

    A plot of which all series have the same single x, such as one validation, becomes bars.

    Args:
        plots: For instance :func:`unmix.visualization.run_plots.loss_plots`.
        out: The PNG.
        title: What was run.

    Raises:
        ValueError: If no plot has a point.
    """
    plots = [plot for plot in plots if plot.xs]
    if not plots:
        raise ValueError('Nothing to draw: no loss and no accuracy is logged.')
    columns, rows = min(len(plots), _ROW), -(-len(plots) // _ROW)
    figure = new_figure(figsize=(5.5 * columns, 4 * rows + (0.4 if title else 0)), layout='constrained')
    figure.suptitle(title, parse_math=False)
    for position, plot in enumerate(plots, start=1):
        axes = figure.add_subplot(rows, columns, position)
        heading = f'{plot.title}\n({plot.note})' if plot.note else plot.title
        axes.set_title(heading, fontsize=10, parse_math=False)
        if len(plot.xs) == 1:
            _draw_bars(axes, plot)
            continue
        axes.set(xlabel=plot.x, ylabel=plot.y)
        for one in plot.drawn:
            marker = 'o' if len(one.points) < _FEW and not one.dash else None
            line = ':' if one.dash else '-'
            style: dict[str, Any] = dict(
                color=f'C{one.colour % 10}', marker=marker, markersize=3, alpha=0.35 if one.faint else 1.0
            )
            axes.plot(*zip(*one.points, strict=True), label=one.label, linestyle=line, **style)
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_path(out) as path:
        figure.savefig(path, dpi=120)


def _draw_bars(axes: Any, plot: Plot) -> None:
    labels, values = [one.label for one in plot.drawn], [one.points[-1][1] for one in plot.drawn]
    bars = axes.barh(labels, values, color=[f'C{one.colour % 10}' for one in plot.drawn])
    axes.bar_label(bars, fmt='%.4g', padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel=f'{plot.y}, {plot.x} {plot.xs[0]:g}')
