"""Files of a table of results: JSON, Markdown, CSV, a figure."""

import csv
import io
import json
from pathlib import Path

from tools.evidence.estimates import MARGIN, Json, comparisons, estimate
from tools.evidence.tables import METRICS, NAMES, accuracies, choices, missing, verdicts


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
