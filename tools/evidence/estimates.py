"""Means, intervals and comparisons over seeds, from the content of a file of results."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

MARGIN = 0.3  # points of kNN within which two forms count as equivalent
Json = dict[str, Any]


def arm_of(content: Json, row: str, column: str) -> Json:
    """Return a cell of a table: one config, all seeds.

    Raises:
        ValueError: If the table has no such cell.
    """
    for arm in content['arms']:
        if (arm['row'], arm['column']) == (row, column):
            found: Json = arm
            return found
    known = ', '.join(f'{arm["row"]} {arm["column"]}' for arm in content['arms'])
    raise ValueError(f'there is no arm {row} {column}; known: {known}.')


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: In percent or points.
        half: Half of the 95 % t-interval; None with fewer than two seeds.
        n: Number of seeds; 0: there is no run.
        p: Of a difference, of the two-sided t-test against zero.
    """

    mean: float
    half: float | None
    n: int
    p: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> 'Estimate':
        """Return the estimate from the values of all seeds."""
        x = np.asarray(values, dtype=float)
        if len(x) < 2:
            return cls(float(x[0]) if len(x) else math.nan, None, len(x))
        error = float(stats.sem(x))
        half = float(stats.t.ppf(0.975, len(x) - 1)) * error
        # Without any spread a test has nothing to divide by: a difference is then certain, or there is none.
        p = 2 * float(stats.t.sf(abs(x.mean()) / error, len(x) - 1)) if error else float(not x.mean())
        return cls(float(x.mean()), half, len(x), p)

    def __str__(self) -> str:
        if not self.n:
            return 'missing'
        return f'{self.mean:.1f}' + ('' if self.half is None else f' ± {self.half:.1f}')

    @property
    def signed(self) -> str:
        """The mean with its sign, as of a difference."""
        return str(self) if not self.n or self.mean < 0 else f'+{self}'


def estimate(arm: Json, metric: str) -> Estimate:
    """Return mean and interval of a cell."""
    return Estimate.of(arm['top1'].get(metric, []))


def difference(arm: Json, minus: Json, metric: str = 'knn') -> Estimate:
    """Return the mean difference of two cells, paired by seed; only seeds that both have count."""
    first, second = (dict(zip(cell['seeds'], cell['top1'].get(metric, []), strict=True)) for cell in (arm, minus))
    return Estimate.of([first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())])


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by `Holm's procedure <https://www.jstor.org/stable/4615733>`_, in their order."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind='stable')):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def verdict(found: Estimate, p: float | None) -> str:
    """Say what a difference shows, by its 95 % interval and its adjusted p-value."""
    if found.half is None or p is None:
        return 'not known'
    words = [] if p >= 0.05 else ['higher' if found.mean > 0 else 'lower']
    if abs(found.mean) + found.half <= MARGIN:
        words.append('equivalent')
    return ', '.join(words) or 'not decided'


def comparisons(content: Json) -> list[tuple[str, str, str, Estimate, float | None]]:
    """Return the planned comparisons of a table: row, column, minus which column, kNN difference, Holm's p-value."""
    found = [
        (row, column, minus, difference(arm_of(content, row, column), arm_of(content, row, minus)))
        for row, column, minus in content['comparisons']
    ]
    tested = [index for index, (*_, value) in enumerate(found) if value.p is not None]
    # All planned comparisons count, also those without runs: the others do not become more certain by it.
    raw = [1.0 if (p := found[index][3].p) is None else p for index in tested]
    adjusted = dict(zip(tested, holm([*raw, *[1.0] * (len(found) - len(tested))]), strict=False))
    return [(*cell, adjusted.get(index)) for index, cell in enumerate(found)]
