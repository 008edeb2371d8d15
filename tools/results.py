"""Write the numbers of ``results/*.json`` into README, pages and metafiles, or compare them.

    python tools/results.py            # writes
    python tools/results.py --check    # writes nothing; status 1 if a page has other numbers

A page says where a number belongs by comments, ``<!-- results: value methods moco full knn -->98.1<!-- /results -->``,
in YAML by ``# results: ...`` and ``# /results`` on lines of their own. All between them is replaced. The first word is
one of the functions in ``REGIONS``, the second a file, the others are arguments. Published figures are no results of
ours: they have their source beside them, and no mark.
"""

import argparse
import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
PAGES = ('README.md', 'docs/*.md', 'configs/*/README.md', 'configs/*/metafile.yml')
METRICS = {'knn': 'kNN', 'linear': 'linear', 'linear_10_per_class': 'linear, 10 labels a class'}
MARGIN = 0.3  # points of kNN within which two forms count as equivalent
NAMES = {'moco': 'MoCo', 'moco-align-uniform': 'MoCo, alignment and uniformity', 'simclr': 'SimCLR', 'byol': 'BYOL',
         'wmse': 'W-MSE', 'swav': 'SwAV', 'deepclusterv2': 'DeepCluster-v2', 'instdisc': 'InstDisc', 'pic': 'PIC',
         'cmc': 'CMC', 'vicreg': 'VICReg', 'barlow-twins': 'Barlow Twins', 'moco-v3': 'MoCo v3', 'nnclr': 'NNCLR',
         'dino': 'DINO', 'lejepa': 'LeJEPA', 'simsiam': 'SimSiam'}  # fmt: skip
COLUMNS = {'plain': 'plain', 'equal': 'plain, equal compute', 'full': 'Un-Mix', 'once': "`pairs='once'`",
           'every': '`every=2`', 'replace': '`replace=True`', 'size': '`size`'}  # fmt: skip
OPEN = {'.md': r'<!-- results: (?P<name>[^>\n]*?) -->', '.yml': r'(?P<indent> *)# results: (?P<name>[^\n]*)\n'}
CLOSE = {'.md': '<!-- /results -->', '.yml': ' *# /results'}
Json = dict[str, Any]


@cache
def load(table: str, folder: Path = ROOT / 'results') -> Json:
    """Return the content of a file of results.

    Raises:
        ValueError: If there is no such file.
    """
    path = folder / f'{table}.json'
    if not path.is_file():
        known = ', '.join(sorted(file.stem for file in folder.glob('*.json')))
        raise ValueError(f'there is no {path.name} in results; known: {known}.')
    content: Json = json.loads(path.read_text(encoding='utf-8'))
    return content


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


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [head, ['---'] * len(head), *rows]
    return (
        '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)
        .replace('| --- |', '|---|')
        .replace(' --- |', '---|')
    )


def seeds_of(arm: Json) -> str:
    """Return how many seeds a cell has, and how many it is to have."""
    n, planned = len(arm['seeds']), arm['planned']
    return str(n) if n >= planned else f'{n} of {planned}'


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


def accuracies(content: Json) -> str:
    """Table of all cells: seeds and accuracies, raw pixels and random weights first."""
    rows = []
    for arm in (arm for arm in content['arms'] if arm['seeds']):
        epochs = '' if arm.get('epochs') is None else f'{arm["epochs"]}'
        cells = [str(estimate(arm, metric)) for metric in METRICS]
        name, column = NAMES.get(arm['row'], arm['row']), COLUMNS.get(arm['column'], arm['column'])
        rows.append([name, column, epochs, seeds_of(arm), *cells])
    return markdown(['method', '', 'epochs', 'n', *METRICS.values()], rows)


def methods(content: Json) -> str:
    """Table of methods: without and with Un-Mix side by side, and the difference in kNN."""
    compared = {row: (found, p) for row, _, _, found, p in comparisons(content)}
    rows = []
    for row in dict.fromkeys(arm['row'] for arm in content['arms']):
        plain, full = (arm_of(content, row, column) for column in ('plain', 'full'))
        if not plain['seeds'] and not full['seeds']:
            continue
        n = seeds_of(plain) if seeds_of(plain) == seeds_of(full) else f'{seeds_of(plain)}, {seeds_of(full)}'
        cells = [str(estimate(arm, metric)) for metric in METRICS for arm in (plain, full)]
        found, p = compared[row]
        rows.append([NAMES[row], n, *cells, found.signed, 'missing' if p is None else f'{p:.2g}'])
    head = [name for label in ('kNN', 'linear', '10 labels a class') for name in (label, '+ Un-Mix')]
    return markdown(['method', 'n', *head, 'difference in kNN', f'p, Holm of {len(content["comparisons"])}'], rows)


def equal_compute(content: Json, row: str) -> str:
    """Table of a method: controls, plain, with as much computation as with Un-Mix, with Un-Mix, and the difference."""
    plain, equal, full = (arm_of(content, row, column) for column in ('plain', 'equal', 'full'))
    lines = [
        ['raw pixels', *(f'{plain["raw_pixels"][metric]:.1f}' for metric in METRICS)],
        ['random initialisation', *(str(Estimate.of(plain['random_init'][metric])) for metric in METRICS)],
    ]
    for arm, mark in ((plain, ''), (equal, ' (equal compute)'), (full, '')):
        name = f'{NAMES[row]}{" + Un-Mix" * (arm is full)}, {arm["epochs"]} epochs{mark}'
        lines.append([f'**{name}**' if arm is full else name, *(str(estimate(arm, metric)) for metric in METRICS)])
    lines.append(
        ['Un-Mix minus equal compute, paired by seed', *(difference(full, equal, metric).signed for metric in METRICS)]
    )
    return markdown(['', *METRICS.values()], lines)


def verdicts(content: Json) -> str:
    """Table of the planned comparisons in kNN: difference, p-value, what it shows."""
    rows = [
        [NAMES[row], f'{COLUMNS[column]} minus {COLUMNS[minus]}', str(found.n), found.signed,
         'missing' if p is None else f'{p:.2g}', verdict(found, p)]
        for row, column, minus, found, p in comparisons(content) if found.n
    ]  # fmt: skip
    return markdown(
        ['method', 'comparison', 'n', 'difference in kNN', f'p, Holm of {len(content["comparisons"])}', 'verdict'], rows
    )


def half_price(content: Json) -> str:
    """Say of each method whether each pair once, at half of the extra cost, is equivalent to all mixtures in kNN."""
    texts = []
    for row in dict.fromkeys(row for row, column, *_ in content['comparisons'] if column == 'once'):
        found = difference(arm_of(content, row, 'once'), arm_of(content, row, 'full'))
        if found.half is None:
            texts.append(f'{NAMES[row]}: not known, there are fewer than two seeds')
            continue
        word = 'equivalent' if abs(found.mean) + found.half <= MARGIN else 'equivalence is not shown'
        texts.append(f'{NAMES[row]}: {word}, {found.signed} points, n = {found.n}')
    return f'{"; ".join(texts)}.'


def controls(content: Json) -> str:
    """Table of methods against raw pixels and random weights: on how many seeds each is beaten."""
    rows = []
    for arm in content['arms']:
        if not arm['seeds']:
            continue
        cells = []
        for metric in ('knn', 'linear'):
            values, raw, random = arm['top1'][metric], arm['raw_pixels'][metric], arm['random_init'][metric]
            cells += [f'{min(values):.1f}', f'{raw:.1f}', f'{max(random):.1f}']
            won = sum(value > max(raw, other) for value, other in zip(values, random, strict=True))
            cells.append(f'{won} of {len(values)}')
        rows.append([NAMES[arm['row']], COLUMNS[arm['column']], *cells])
    head = ['lowest', 'raw pixels', 'random weights, highest', 'seeds ahead of both']
    return markdown(['method', '', *(f'{metric}: {name}' for metric in ('kNN', 'linear') for name in head)], rows)


def missing(content: Json) -> str:
    """Say which cells of a table have fewer seeds than planned; they are not in the other tables if they have none."""
    rows: dict[str, dict[str, str]] = {}
    for arm in content['arms']:
        rows.setdefault(NAMES.get(arm['row'], arm['row']), {})[COLUMNS.get(arm['column'], arm['column'])] = seeds_of(
            arm
        )
    texts = []
    for row, cells in rows.items():
        lacking = {column: seeds for column, seeds in cells.items() if ' of ' in seeds}
        if len(lacking) == len(cells) > 1 and len(set(lacking.values())) == 1:
            texts.append(f'{row} ({next(iter(lacking.values()))} each)')
        elif lacking:
            texts.append(f'{row} ({", ".join(f"{column} {seeds}" for column, seeds in lacking.items())})')
    return f'Seeds are missing: {"; ".join(texts)}.' if texts else 'No seed is missing.'


def choices(content: Json) -> str:
    """Table of a search: kNN on the validation writers for each value, the chosen one in bold."""
    rows = []
    for row, found in content['choices'].items():
        known = {value: f'{value}: {score:.1f}' for value, score in found['scores'].items() if score is not None}
        cells = [f'**{text}**' if value == found['chosen'] else text for value, text in known.items()]
        if cells:
            rows.append([found['name'], NAMES[row.partition(' ')[0]], found['before'], ', '.join(cells)])
    return markdown(['what', 'method', 'before', 'kNN of each value'], rows)


def value(content: Json, row: str, column: str, metric: str) -> str:
    """Mean ± half of the interval of a cell."""
    return str(estimate(arm_of(content, row, column), metric))


def values(content: Json, row: str, column: str, metric: str) -> str:
    """Values of all seeds of a cell."""
    return ', '.join(f'{x:.1f}' for x in arm_of(content, row, column)['top1'][metric])


def minus(content: Json, row: str, column: str, other: str, metric: str) -> str:
    """Difference of two cells, paired by seed."""
    return difference(arm_of(content, row, column), arm_of(content, row, other), metric).signed


def rows(content: Json) -> str:
    """Table of a file that is one already: ``head`` and ``rows``."""
    return markdown(content['head'], [[cell(item) for item in row] for row in content['rows']])


def cell(item: str | float | list[Any]) -> str:
    """Return a text as it is, a number, [mean, half of the interval, '+' for a difference] or [mean, [values]]."""
    if isinstance(item, str):
        return item
    if not isinstance(item, list):
        return f'{item:.1f}'
    mean, spread, *sign = item
    if isinstance(spread, list):
        return f'{mean:.1f} ({", ".join(f"{value:.1f}" for value in spread)})'
    text = f'{mean:+.1f}' if sign else f'{mean:.1f}'
    return text if spread is None else f'{text} ± {spread:.1f}'


def metrics(content: Json, row: str, column: str) -> str:
    """Lines of a metafile: accuracies of a cell of one seed, with at most two decimals."""
    names = {'knn': 'kNN Top 1 Accuracy', 'linear': 'Linear Top 1 Accuracy',
             'classifier': 'Linear Classifier Top 1 Accuracy'}  # fmt: skip
    arm = arm_of(content, row, column)
    return '\n'.join(
        f'{names[metric]}: {round(found[0], 2):g}' for metric, found in arm['top1'].items() if metric in names
    )


REGIONS: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (
        accuracies,
        methods,
        equal_compute,
        verdicts,
        half_price,
        controls,
        missing,
        choices,
        value,
        values,
        minus,
        rows,
        metrics,
    )
}


def render(text: str, suffix: str, where: str) -> str:
    """Return a page with all regions made anew.

    Raises:
        ValueError: If a region is not closed, or names what is not there.
    """
    pattern = re.compile(f'(?P<open>{OPEN[suffix]})(?P<text>.*?)(?P<close>{CLOSE[suffix]})', re.DOTALL)

    def new(match: re.Match[str]) -> str:
        name, table, *arguments = match['name'].split()
        try:
            made = REGIONS[name](load(table), *arguments)
        except KeyError as error:
            raise ValueError(f'{where}: results: {match["name"]}: {error} is not there.') from error
        except (TypeError, ValueError) as error:
            raise ValueError(f'{where}: results: {match["name"]}: {error}') from error
        if suffix == '.yml':
            made = ''.join(f'{match["indent"]}{line}\n' for line in made.splitlines())
        elif '\n' in made:
            made = f'\n\n{made}\n\n'
        return match['open'] + made + match['close']

    opened = len(re.findall(OPEN[suffix], text))
    if opened != len(pattern.findall(text)) or opened != len(re.findall(CLOSE[suffix], text)):
        raise ValueError(f'{where}: {opened} comments "results: NAME" and as many "/results" are expected, in turns.')
    return pattern.sub(new, text)


def pages(root: Path) -> list[Path]:
    """Return all files that may have regions."""
    return [path for pattern in PAGES for path in sorted(root.glob(pattern))]


def stale(root: Path) -> dict[Path, tuple[str, str]]:
    """Return what pages are and what they should be, where these differ."""
    found = {}
    for path in pages(root):
        text = path.read_text(encoding='utf-8')
        made = render(text, path.suffix, str(path.relative_to(root)))
        if made != text:
            found[path] = (text, made)
    return found


def to_json(content: Json) -> str:
    """Return the text of a file of results: a line for each cell, so that a difference shows what has changed."""
    parts = []
    for key, entry in content.items():
        if key in ('arms', 'environments'):
            lines = ',\n'.join(f'  {json.dumps(item)}' for item in entry)
            parts.append(f' "{key}": [\n{lines}\n ]' if entry else f' "{key}": []')
        elif isinstance(entry, dict):
            lines = ',\n'.join(f'  {json.dumps(name)}: {json.dumps(item)}' for name, item in entry.items())
            parts.append(f' "{key}": {{\n{lines}\n }}')
        else:
            parts.append(f' "{key}": {json.dumps(entry)}')
    return '{\n' + ',\n'.join(parts) + '\n}\n'


def to_markdown(content: Json) -> str:
    """Return the tables of a file of results."""
    if 'choices' in content:
        return f'{choices(content)}\n\n{missing(content)}\n'
    number = len(content['comparisons'])
    return f'{accuracies(content)}\n\n{number} comparisons.\n\n{verdicts(content)}\n\n{missing(content)}\n'


def to_csv(content: Json) -> str:
    """Return all values, a line for each run."""
    output = io.StringIO()
    writer = csv.writer(output, lineterminator='\n')
    writer.writerow(['row', 'column', 'epochs', 'seed', *METRICS, 'digest', 'commit', 'seconds'])
    for arm in content['arms']:
        for index, seed in enumerate(arm['seeds']):
            accuracy = [arm['top1'].get(metric, [''] * (index + 1))[index] for metric in METRICS]
            commit = content['environments'][arm['environment'][index]]['commit']
            writer.writerow(
                [
                    arm['row'],
                    arm['column'],
                    arm['epochs'],
                    seed,
                    *accuracy,
                    arm['digest'],
                    commit,
                    arm['seconds'][index],
                ]
            )
    return output.getvalue()


def draw(content: Json, path: Path) -> None:
    """Draw the planned comparisons, or kNN of all cells where there are none, with their intervals."""
    from matplotlib.figure import Figure

    if content['comparisons']:
        cells = [(f'{NAMES[row]}: {column} - {other}', found) for row, column, other, found, _ in comparisons(content)]
    else:
        cells = [(f'{arm["row"]}: {arm["column"]}', estimate(arm, 'knn')) for arm in content['arms']]
    cells = [(name, found) for name, found in cells if found.n]
    figure = Figure(figsize=(7, 1 + 0.25 * len(cells)), layout='constrained')
    axes = figure.subplots()
    for place, (_, found) in enumerate(cells):
        axes.errorbar(found.mean, -place, xerr=found.half or 0, fmt='o', color='C0', capsize=3)
    axes.set_yticks([-place for place in range(len(cells))], [f'{name} (n = {found.n})' for name, found in cells])
    if content['comparisons']:
        axes.axvline(0, color='grey', linewidth=1)
        axes.axvspan(-MARGIN, MARGIN, color='grey', alpha=0.2, label=f'within {MARGIN} points')
        axes.legend(fontsize='small')
    axes.set_xlabel('kNN, ' + ('difference in points' if content['comparisons'] else 'percent') + ', 95 % interval')
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing; status 1 if a page has other numbers')
    args = parser.parse_args(arguments)
    try:
        found = stale(ROOT)
    except ValueError as error:
        sys.exit(str(error))
    for path, (text, made) in found.items():
        name = path.relative_to(ROOT)
        if not args.check:
            path.write_text(made, encoding='utf-8')
            print(f'{name}: written')
            continue
        for line, (old, new) in enumerate(zip(text.splitlines(), made.splitlines(), strict=False), 1):
            if old != new:
                print(f'{name}:{line}: is       {old}\n{name}:{line}: should be {new}')
                break
    if args.check and found:
        sys.exit('These pages do not have the numbers of results/*.json: run python tools/results.py.')


if __name__ == '__main__':
    main()
