"""Tables and single numbers for pages, as Markdown or YAML, from the content of a file of results."""

from collections.abc import Sequence
from typing import Any

from tools.evidence.estimates import MARGIN, Estimate, Json, arm_of, comparisons, difference, estimate, verdict

METRICS = {'knn': 'kNN', 'linear': 'linear', 'linear_10_per_class': 'linear, 10 labels a class'}
NAMES = {'moco': 'MoCo', 'moco-align-uniform': 'MoCo, alignment and uniformity', 'simclr': 'SimCLR', 'byol': 'BYOL',
         'wmse': 'W-MSE', 'swav': 'SwAV', 'deepclusterv2': 'DeepCluster-v2', 'instdisc': 'InstDisc', 'pic': 'PIC',
         'cmc': 'CMC', 'vicreg': 'VICReg', 'barlow-twins': 'Barlow Twins', 'moco-v3': 'MoCo v3', 'nnclr': 'NNCLR',
         'dino': 'DINO', 'lejepa': 'LeJEPA', 'simsiam': 'SimSiam'}  # fmt: skip
COLUMNS = {'plain': 'plain', 'equal': 'plain, equal compute', 'full': 'Un-Mix', 'once': "`pairs='once'`",
           'every': '`every=2`', 'replace': '`replace=True`', 'size': '`size`'}  # fmt: skip


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
