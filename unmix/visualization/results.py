"""Results of an evaluation as the cells of a table."""

from collections.abc import Mapping
from typing import Any, NamedTuple

CONTROLS = {'raw_pixels': 'raw pixels', 'random_init': 'random initialisation', 'start': 'weights at the start'}
COLUMNS = {'knn': 'kNN', 'linear': 'linear'}
MANY = 4  # metrics, from which on each has a row of its own


class Cells(NamedTuple):
    """A table of accuracies in percent.

    Attributes:
        columns: The first is that of the names of the rows.
        rows: Texts.
        own: Number of the row of the run itself; None if that is a column.
    """

    columns: list[str]
    rows: list[list[str]]
    own: int | None


def result_cells(results: Mapping[str, Mapping[str, Any]], name: str) -> Cells:
    """Return a row for each control and for the run ``name``, and a column for each metric.

    If there are more than four metrics, each has a row. The best epoch of a classifier is shown beside the last.

    Args:
        results: By metric, as in ``results.json``.
        name: Of the run.
    """
    fields = {f'{control}_top1': label for control, label in CONTROLS.items()}
    fields |= {'top1': name, 'best_top1': 'best epoch'}
    fields = {field: label for field, label in fields.items() if any(field in row for row in results.values())}
    cells = [[f'{row[field]:.1f}' if field in row else '' for row in results.values()] for field in fields]
    headings = [metric_name(metric) for metric in results]
    rows, columns, corner = list(fields.values()), headings, 'features'
    if len(results) > MANY:
        rows, columns, corner, cells = headings, rows, 'protocol', [list(row) for row in zip(*cells, strict=True)]
    own = list(fields).index('top1') if 'top1' in fields and len(results) <= MANY else None
    return Cells([corner, *columns], [[label, *row] for label, row in zip(rows, cells, strict=True)], own)


def metric_name(metric: str) -> str:
    """``linear_10_per_class`` is 'linear, 10 labels a class'."""
    if metric in COLUMNS:
        return COLUMNS[metric]
    stem, _, rest = metric.partition('_')
    number = rest.removesuffix('_per_class')
    if not number.isdigit() or number == rest:
        return metric
    return f'{COLUMNS.get(stem, stem)}, {number} label{"s" * (number != "1")} a class'


def metrics_of(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the accuracies in ``results.json`` by metric, without what else stands there."""
    found = {}
    for name, row in results.items():
        values = (
            {key: value for key, value in row.items() if isinstance(value, int | float)}
            if isinstance(row, Mapping)
            else {}
        )
        if any(key.endswith('top1') for key in values):
            found[name] = values
    return found


def card_line(card: Mapping[str, Any]) -> str:
    """Return one line about the weights, data and protocol of a test."""
    file = card.get('checkpoint') or {}
    weights = f'{file.get("file") or "weights not saved"} {(file.get("sha256") or "")[:8]}'.strip()
    data = ', '.join(
        ' '.join([name, str(cfg.get('type')), str(cfg.get('split', ''))]).strip()
        for name, cfg in (card.get('data') or {}).items()
    )
    return f'{weights}; {data}; layer {card.get("layer")}; BatchNorm {card.get("bn_mode")}; seed {card.get("seed")}'
