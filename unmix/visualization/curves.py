"""Curves of a training."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unmix.utils.files import atomic_path

Record = dict[str, Any]


def read_scalars(files: Iterable[str | Path]) -> tuple[list[Record], list[Record]]:
    """Read the records of a training and of its validations from MMEngine's ``scalars.json`` files.

    Args:
        files: Oldest first. From its first step on a later file replaces the earlier ones, so that a resumed training
            gives one curve, and a training that was started again hides the old one.

    Returns:
        Training records (with ``loss`` and ``step``, an iteration), validation records (``step`` is an epoch or
        iteration).
    """
    train: list[Record] = []
    validation: list[Record] = []
    for file in files:
        lines = [line for line in Path(file).read_text(encoding='utf-8').splitlines() if line.strip()]
        records = [record for record in map(json.loads, lines) if 'step' in record]
        for kept, new in (
            (train, [record for record in records if 'loss' in record]),
            (validation, [record for record in records if any('/' in key for key in record)]),
        ):
            if new:
                kept[:] = [record for record in kept if record['step'] < new[0]['step']] + new
    return train, validation


def draw_curves(files: Sequence[str | Path], out: str | Path) -> None:
    """Draw the loss with its terms, and kNN (or other) top-1 accuracy, of a training to a PNG.

    Args:
        files: MMEngine's ``scalars.json`` of the training, several if it was resumed, oldest first.
        out: The PNG.

    Raises:
        ValueError: If the files hold neither.
    """
    from matplotlib.figure import Figure  # slow to import

    train, validation = read_scalars(files)
    losses = sorted({key for record in train for key in record if key.startswith('loss')})
    accuracies = sorted({key for record in validation for key in record if key.endswith('/top1')})
    panels = [('loss', 'iteration', train, losses), ('top-1 accuracy (%)', 'epoch', validation, accuracies)]
    panels = [panel for panel in panels if panel[-1]]
    if not panels:
        raise ValueError(f'No loss and no accuracy in {[str(file) for file in files]}.')
    figure = Figure(figsize=(5.5 * len(panels), 4), layout='constrained')
    for position, (title, axis, records, keys) in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), position, title=title, xlabel=axis)
        for key in keys:
            points = [(record['step'], record[key]) for record in records if key in record]
            axes.plot(*zip(*points, strict=True), label=key, marker='o' if len(points) < 30 else None, markersize=3)
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_path(out) as path:
        figure.savefig(path, dpi=120)
