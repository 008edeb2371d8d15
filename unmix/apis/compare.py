"""The command that compares runs: one table, the differences of their configs, and curves."""

import argparse
import csv
import io
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmix.utils.files import atomic_path
from unmix.utils.names import shown
from unmix.utils.run_files import Record, RunFiles, accuracies, find_runs, leaves, read_scalars
from unmix.visualization.curves import draw_curves
from unmix.visualization.page import Page, Plot, Series, smoothed, table
from unmix.visualization.report import duration, epochs_of
from unmix.visualization.results import metric_name
from unmix.visualization.run_plots import SMOOTHING, WEIGHT, accuracy_keys, points_of

DESCRIPTION = """Compare runs: results, paired by seed where there are several, time, and what differs in their configs.

%(prog)s work_dirs/moco work_dirs/unmix-moco
%(prog)s work_dirs/seeds --out comparison        # all runs in a folder

Runs that differ by their seed alone are one line: mean, standard deviation and number of seeds. The table is printed;
--out FOLDER gets compare.html, compare.md, compare.csv and accuracy.png: accuracy against epochs, of plain methods
dotted, with Un-Mix solid.
"""
# Keys of a config that do not tell what is trained.
_FREE = ('work_dir', 'experiment_name', 'launcher', 'load_from', 'resume', 'randomness.seed', 'cfg', 'log_level')
_SHOWN = 40  # keys of configs that differ
_PLAIN, _UNMIX = 'plain method', 'Un-Mix'


@dataclass
class Group:
    """Runs that differ by their seed alone.

    Attributes:
        name: Of the method, with what distinguishes it from others.
        runs: The runs.
        values: Their config by key.
        records: Of each run, those of the training and of the validations.
        unmix: Whether the config has Un-Mix.
        base: Number of the config without Un-Mix; groups of one number have one colour.
    """

    name: str
    runs: list[RunFiles]
    values: dict[str, Any]
    records: list[tuple[list[Record], list[Record]]] = field(default_factory=list)
    unmix: bool = False
    base: int = 0


def compare(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Print the comparison, and write it where it shall go; ``prog`` is the name of the command in messages."""
    parser = argparse.ArgumentParser(
        prog=prog, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('runs', nargs='+', metavar='RUN', help='work dir of a run, or a folder of some')
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='where the files go (default: print the table only)')
    args = parser.parse_args(arguments)
    groups = grouped(read_runs(args.runs))
    print(markdown(groups), end='')
    if args.out is None:
        return
    texts = {'compare.html': html(groups), 'compare.md': markdown(groups), 'compare.csv': comma_separated(groups)}
    for name, text in texts.items():
        with atomic_path(args.out / name) as temporary:
            temporary.write_text(text, encoding='utf-8', newline='')
        print(args.out / name)
    plots = list(accuracy_plots(groups))
    if plots:
        draw_curves(plots, args.out / 'accuracy.png', f'dotted: {_PLAIN}, solid: {_UNMIX}')
        print(args.out / 'accuracy.png')


def read_runs(paths: Sequence[str]) -> list[RunFiles]:
    """Return the runs that are named, and those in folders that are; each once.

    Raises:
        FileNotFoundError: If there is none at a path.
    """
    found: dict[Path, RunFiles] = {}
    for path in paths:
        below = list(find_runs(Path(path).expanduser()))
        for run in [RunFiles(other) for other in below] or [RunFiles(path)]:
            found.setdefault(run.path.resolve(), run)
    return list(found.values())


def grouped(runs: Sequence[RunFiles]) -> list[Group]:
    """Group runs whose configs differ by the seed alone, in the order in which they are given."""
    groups: dict[tuple[str, ...], Group] = {}
    bases: dict[tuple[str, ...], int] = {}
    for run in runs:
        values = {key: value for key, value in leaves(run.config) if key and key not in _FREE}
        key = (run.method, *sorted(f'{name}={value!r}' for name, value in values.items()))
        plain = tuple(sorted(f'{name}={value!r}' for name, value in values.items() if name[:11] != 'model.unmix'))
        group = groups.setdefault(key, Group(run.method or shown(run.path.name), [], values))
        group.unmix = any(name[:11] == 'model.unmix' and value is not None for name, value in values.items())
        group.base = bases.setdefault(plain, len(bases))
        group.runs.append(run)
        group.records.append(read_scalars(run.logs))
    found = list(groups.values())
    for group in found:
        group.runs, group.records = map(list, zip(*_by_seed(group), strict=True))
    same = [group for group in found if sum(other.name == group.name for other in found) > 1]
    for group in same:
        group.name = f'{group.name} ({_distinction(group, same)})'
    return found


def _by_seed(group: Group) -> list[tuple[RunFiles, Any]]:
    pairs = zip(group.runs, group.records, strict=True)
    return sorted(pairs, key=lambda pair: (pair[0].seed is None, pair[0].seed or 0))


def _distinction(group: Group, others: Sequence[Group]) -> str:
    """Return what distinguishes a group from others with its name: at most two values, or its folder."""
    keys = [key for key in differing(others) if '.' in key]
    if 0 < len(keys) <= 2:
        return ', '.join(f'{key.rpartition(".")[2]}={group.values.get(key)}' for key in keys)
    return shown(group.runs[0].path.absolute().name)


def differing(groups: Sequence[Group]) -> list[str]:
    """Return the keys whose values differ between configs."""
    keys = dict.fromkeys(key for group in groups for key in group.values)
    return [key for key in keys if len({repr(group.values.get(key)) for group in groups}) > 1]


def metrics_of_groups(groups: Sequence[Group]) -> list[str]:
    """Return the metrics that some run has."""
    return list(dict.fromkeys(metric for group in groups for run in group.runs for metric in accuracies(run)))


def summary(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the table of results: a row for each group."""
    metrics = metrics_of_groups(groups)
    columns = ['method', 'seeds', *(f'{metric_name(m)} (%)' for m in metrics), 'epochs', 'time', 'images seen', 'state']
    rows = []
    for group in groups:
        found = [accuracies(run) for run in group.runs]
        seconds = [run.seconds for run in group.runs if run.seconds is not None]
        rows.append(
            [
                group.name,
                ', '.join('?' if run.seed is None else str(run.seed) for run in group.runs),
                *(_mean([one[metric] for one in found if metric in one]) for metric in metrics),
                _common([epochs_of(run, train) for run, (train, _) in zip(group.runs, group.records, strict=True)]),
                duration(statistics.mean(seconds)) if seconds else '',
                _common([_images_seen(run, train) for run, (train, _) in zip(group.runs, group.records, strict=True)]),
                _common([run.state for run in group.runs]),
            ]
        )
    return columns, rows


def paired(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the differences to a plain method (the first group without Un-Mix, or the first).

    Each difference is that of the runs with the same seed: mean, standard deviation and number of seeds.
    """
    first = next((group for group in groups if not group.unmix), groups[0])
    metrics = metrics_of_groups(groups)
    rows = []
    for group in groups:
        pairs = [(a, b) for a in first.runs for b in group.runs if a.seed is not None and a.seed == b.seed]
        if group is first or not pairs:
            continue
        cells = []
        for metric in metrics:
            both = [(accuracies(a), accuracies(b)) for a, b in pairs]
            cells.append(_mean([b[metric] - a[metric] for a, b in both if metric in a and metric in b], '+'))
        rows.append([f'{group.name} - {first.name}', ', '.join(str(a.seed) for a, _ in pairs), *cells])
    return ['difference', 'seeds', *(f'{metric_name(metric)} (points)' for metric in metrics)], rows


def differences(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the values in which the configs differ."""
    keys = differing(groups)
    rows = [[key, *(_value(group, key) for group in groups)] for key in keys[:_SHOWN]]
    if len(keys) > _SHOWN:
        rows.append([f'and {len(keys) - _SHOWN} more', *('' for _ in groups)])
    return ['key', *(group.name for group in groups)], rows


def markdown(groups: Sequence[Group]) -> str:
    """Return the comparison as Markdown."""
    parts = []
    for title, (columns, rows) in _tables(groups):
        lines = [f'| {" | ".join(map(_cell, row))} |' for row in (columns, *rows)]
        lines.insert(1, '|' + '---|' * len(columns))
        parts.append(f'{title}\n\n' + '\n'.join(lines) + '\n')
    return '\n'.join(parts)


def comma_separated(groups: Sequence[Group]) -> str:
    """Return a row for each run as CSV: what it is, its results, and the values in which configs differ."""
    keys, metrics = differing(groups), metrics_of_groups(groups)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator='\n')
    about = ['run', 'method', 'seed', 'state', 'epochs', 'seconds', 'images_seen', 'parameters']
    writer.writerow([*about, *metrics, *keys])
    for group in groups:
        for run, (train, _) in zip(group.runs, group.records, strict=True):
            found, seconds = accuracies(run), run.seconds
            cells = [
                shown(run.path), group.name, run.seed, run.state, epochs_of(run, train),
                None if seconds is None else round(seconds, 1), _images_seen(run, train), run.facts.get('parameters'),
            ]  # fmt: skip
            writer.writerow([*cells, *(found.get(metric) for metric in metrics), *(group.values.get(k) for k in keys)])
    return file.getvalue()


def html(groups: Sequence[Group]) -> str:
    """Return the comparison as a page that needs no other file."""
    page = Page(f'Comparison: {", ".join(group.name for group in groups)}')
    for title, (columns, rows) in _tables(groups):
        page.add(f'<h2>{title}</h2>', table(columns, rows, numbers='Config' not in title))
    page.add('<h2>Curves</h2>', f'<p class="soft">Dashed: {_PLAIN}; solid: {_UNMIX}. Means over seeds.</p>')
    page.add_plots([*accuracy_plots(groups), *_loss_plots(groups)])
    return page.text()


def accuracy_plots(groups: Sequence[Group]) -> Iterator[Plot]:
    """Yield a plot of each accuracy against epochs: plain methods dashed, those with Un-Mix solid, means over seeds."""
    keys = dict.fromkeys(key for group in groups for _, records in group.records for key in accuracy_keys(records))
    for key in keys:
        curves = [_mean_curve([points_of(records, key) for _, records in group.records]) for group in groups]
        series = [
            Series(group.name, curve, group.base, dash=not group.unmix)
            for group, curve in zip(groups, curves, strict=True)
            if curve
        ]
        yield Plot(f'{metric_name(key.removesuffix("/top1"))}: top-1 accuracy', 'epoch', 'top-1 accuracy (%)', series)


def _loss_plots(groups: Sequence[Group]) -> Iterator[Plot]:
    keys = dict.fromkeys(
        key for group in groups for train, _ in group.records for row in train[-1:] for key in row if key[:4] == 'loss'
    )
    for key in keys:
        series = []
        for group in groups:
            curve = _mean_curve([points_of(train, key) for train, _ in group.records])
            if curve:
                series.append(Series(group.name, smoothed(curve, WEIGHT), group.base, dash=not group.unmix))
        yield Plot(key, 'iteration', 'loss', series, note=SMOOTHING)


def _mean_curve(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Return the mean of curves where all that have points have one."""
    known = [dict(curve) for curve in curves if curve]
    places = [x for x in (known[0] if known else {}) if all(x in curve for curve in known)]
    return [(x, statistics.mean(curve[x] for curve in known)) for x in sorted(places)]


def _tables(groups: Sequence[Group]) -> Iterator[tuple[str, tuple[list[str], list[list[str]]]]]:
    yield 'Results', summary(groups)
    if (pairs := paired(groups))[1]:
        yield 'Differences, paired by seed', pairs
    if (other := differences(groups))[1]:
        yield 'Configs', other


def _images_seen(run: RunFiles, train: Sequence[Record]) -> int | None:
    batch = run.facts.get('batch') or (run.config.get('train_dataloader') or {}).get('batch_size')
    return int(train[-1]['step']) * int(batch) if train and batch else None


def _mean(values: Sequence[float], sign: str = '') -> str:
    if not values:
        return ''
    if len(values) == 1:
        return f'{values[0]:{sign}.1f}'
    return f'{statistics.mean(values):{sign}.2f} ± {statistics.stdev(values):.2f} (n={len(values)})'


def _common(values: Sequence[object]) -> str:
    """Return what all have in common, or all that occur."""
    return ', '.join(dict.fromkeys('' if value is None else str(value) for value in values))


def _value(group: Group, key: str) -> str:
    return repr(group.values[key]) if key in group.values else '-'


def _cell(text: str) -> str:
    return text.replace('|', '\\|').replace('\n', ' ')
