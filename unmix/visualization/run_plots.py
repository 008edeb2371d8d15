"""Plots of a training: accuracies of its validations, losses, statistics."""

import math
from collections.abc import Iterator, Mapping, Sequence

from unmix.utils.run_files import Record
from unmix.visualization.page import Plot, Series, smoothed
from unmix.visualization.results import CONTROLS, metric_name

WEIGHT = 0.9  # of the smoothing
SMOOTHING = f'smoothed: exponential moving average, weight {WEIGHT:g}'
_METRICS = 12  # of a validation that are drawn
_NAMES = {'lr': 'learning rate', 'loss': 'loss, all terms'}


def accuracy_keys(validation: Sequence[Record]) -> list[str]:
    """Return the keys of the accuracies of the run itself in the records of its validations."""
    found = {key for record in validation for key in record if key.endswith('/top1')}
    return sorted(key for key in found if key.split('/')[0] not in CONTROLS)


def accuracy_plots(validation: Sequence[Record], metrics: Mapping[str, Mapping[str, float]]) -> Iterator[Plot]:
    """Yield a plot of each accuracy that was validated, with lines for the controls of a test.

    Args:
        validation: Records of the validations.
        metrics: Results of a test by metric.
    """
    for key in accuracy_keys(validation)[:_METRICS]:
        metric = key.removesuffix('/top1')
        points = points_of(validation, key)
        series = [Series('this run', points)]
        for number, (control, label) in enumerate(CONTROLS.items(), start=1):
            value = metrics.get(metric, {}).get(f'{control}_top1')
            if value is not None:
                ends = dict.fromkeys([points[0][0], points[-1][0]] if points else [])
                series.append(Series(label, [(x, value) for x in ends], number, dash=True))
        note = 'one validation' if len(points) == 1 else f'{len(points)} validations'
        yield Plot(f'{metric_name(metric)}: top-1 accuracy', 'epoch', 'top-1 accuracy (%)', series, note=note)


def loss_plots(train: Sequence[Record]) -> Iterator[Plot]:
    """Yield a plot of each term of the loss, as it was logged and smoothed; the sum comes first."""
    keys = {key for record in train for key in record if key.startswith('loss')}
    for key in sorted(keys, key=lambda name: (name != 'loss', name)):
        points = points_of(train, key)
        series = [Series('as logged', points, faint=True), Series('smoothed', smoothed(points, WEIGHT))]
        if len(points) > 2:
            yield Plot(_NAMES.get(key, key), 'iteration', 'loss', series, note=SMOOTHING)
        else:
            yield Plot(_NAMES.get(key, key), 'iteration', 'loss', [Series('as logged', points)])


def value_plots(train: Sequence[Record], keys: Sequence[str], marks: Sequence[float] = ()) -> Iterator[Plot]:
    """Yield a plot of each value that a training has logged; ``marks`` are iterations with a vertical line."""
    for key in keys:
        title = _NAMES.get(key, key.removeprefix('health/').replace('_', ' '))
        yield Plot(title, 'iteration', title, [Series(title, points_of(train, key))], marks)


def points_of(records: Sequence[Record], key: str) -> list[tuple[float, float]]:
    """Return the finite points of a value in records."""
    found = [(record['step'], record[key]) for record in records if isinstance(record.get(key), int | float)]
    return [(float(x), float(y)) for x, y in found if math.isfinite(y)]
