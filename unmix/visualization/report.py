"""The report of a run: ``report.html`` in its work directory, made of the files that lie there."""

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unmix.utils.files import atomic_path
from unmix.utils.run_files import Record, RunFiles, leaves, read_scalars
from unmix.visualization.embedding import METHODS
from unmix.visualization.page import Page, Plot, Series, definitions, picture, safe, table
from unmix.visualization.results import card_line, metric_name, metrics_of, result_cells
from unmix.visualization.run_plots import accuracy_plots, loss_plots, value_plots

REPORT = 'report.html'
VIEWS, NEIGHBOURS = 'views.png', 'neighbours.png'
STATES = {
    'running': 'in progress',
    'ended': 'ended',
    'interrupted': 'interrupted before its end',
    'evaluated': 'evaluation of a checkpoint',
    'unknown': 'not known',
}
_LONGEST = 400  # characters of a value of the config


def write_report(work_dir: str | Path, state: str | None = None) -> Path:
    """Write ``report.html`` of a run, whole or not at all, and return its path.

    Args:
        work_dir: Of the run.
        state: Key of :data:`STATES`, where the files do not say it yet.

    Raises:
        FileNotFoundError: If there is no run.
        OSError: If it cannot be written.
    """
    run = RunFiles(work_dir)
    text = report_page(run, state)
    out = run.path / REPORT
    with atomic_path(out) as temporary:
        temporary.write_text(text, encoding='utf-8')
    return out


def report_page(run: RunFiles, state: str | None = None) -> str:
    """Return the report as HTML that needs no other file."""
    facts, results, config = run.facts, run.results, run.config
    train, validation = read_scalars(run.logs)
    name = run.method or 'Run'
    page = Page(run_title(run))
    page.add('<h2>What was run</h2>', definitions(dict(_what(run, facts, config, train, state or run.state))))
    metrics = metrics_of(results)
    page.add('<h2>Results</h2>')
    if metrics:
        cells = result_cells(metrics, name)
        page.add(table(cells.columns, cells.rows, own=[] if cells.own is None else [cells.own]))
        cards = results.get('protocols') or {}
        lines = ''.join(f'<br>{safe(card_line(card))}' for card in cards.values() if isinstance(card, Mapping))
        page.add(f'<p class="soft">Top-1 accuracy in percent.{lines}</p>')
    else:
        page.add(_validated(validation))
    page.add('<h2>Curves</h2>')
    if not train and not validation:
        page.add('<p class="soft">Nothing is logged yet.</p>')
    page.add_plots([*accuracy_plots(validation, metrics), *loss_plots(train), *value_plots(train, ['lr'])])
    _add_health(page, train, facts.get('alerts') or [])
    _add_pictures(page, run, facts)
    for protocol, card in (results.get('protocols') or {}).items():
        words = json.dumps(card, indent=1, ensure_ascii=False)
        page.add(f'<details><summary>Protocol card: {safe(protocol)}</summary><pre>{safe(words)}</pre></details>')
    _add_config(page, facts, config)
    made = datetime.datetime.now().strftime('%Y-%m-%d %H:%M')
    page.add(f'<p class="soft">Made {made} of the files in this folder; <code>unmix report</code> makes it again.</p>')
    return page.text()


def run_title(run: RunFiles) -> str:
    """Return method, data, seed and folder of a run."""
    parts = [run.method, f'on {run.data}' if run.data else '', f'seed {run.seed}' if run.seed is not None else '']
    return ', '.join(filter(None, [' '.join(filter(None, parts[:2])), parts[2]])) or run.path.absolute().name


def epochs_of(run: RunFiles, train: Sequence[Record]) -> int | None:
    """Return the number of epochs that a run has done."""
    epochs = run.facts.get('epochs', run.results.get('epochs'))
    if epochs is None and train:
        epochs = train[-1].get('epoch')
    return None if epochs is None else int(epochs)


def duration(seconds: float | None) -> str:
    """Return a time in words, as ``1:02:03``; '' for None."""
    return '' if seconds is None else str(datetime.timedelta(seconds=round(seconds)))


def _what(
    run: RunFiles, facts: Mapping[str, Any], config: Mapping[str, Any], train: Sequence[Record], state: str
) -> Iterator[tuple[str, object]]:
    starts = facts.get('starts') or []
    last = starts[-1] if starts else {}
    planned = facts.get('max_epochs') or (config.get('train_cfg') or {}).get('max_epochs')
    epochs = epochs_of(run, train)
    yield 'method', run.method
    yield 'data', ', '.join(filter(None, [run.data, f'{facts["images"]} images' if facts.get('images') else '']))
    yield 'seed', 'not known' if run.seed is None else run.seed
    done = '' if epochs is None else f', {epochs} of {planned} epochs' if planned else f', {epochs} epochs'
    yield 'state', f'{STATES.get(state, state)}{done}'
    yield 'work dir', run.path.absolute()
    if last.get('command'):
        yield 'command', last['command']
        yield 'started in', last.get('directory', '')
    copies = sorted(run.path.glob('*.py'), key=lambda file: file.stat().st_mtime)
    if copies and (config.get('train_cfg') or not config):
        again = run.path.absolute().with_name(f'{run.path.absolute().name}-again')
        yield 'to repeat it', f'unmix train {copies[-1].absolute()} --work-dir {again}'
    commit = last.get('commit')
    versions = last.get('versions') or run.results.get('versions') or {}
    if commit:
        yield 'commit of unmix', commit
    if versions:
        yield 'versions', ', '.join(f'{name} {version}' for name, version in versions.items())
    if last.get('machine'):
        yield 'machine', last['machine']
    if (seconds := run.seconds) is not None and train:
        often = f', in {len(starts)} starts' if len(starts) > 1 else ''
        yield 'duration', f'{duration(seconds)}{often}'
    if last.get('time'):
        yield 'started', starts[0]['time'] + (f', resumed {last["time"]}' if len(starts) > 1 else '')
    if facts.get('parameters'):
        yield 'trained parameters', f'{facts["parameters"]:,}'
    if facts.get('batch'):
        yield 'images a step', facts['batch']


def _validated(validation: Sequence[Record]) -> str:
    last = [(key, value) for key, value in (validation[-1] if validation else {}).items() if key.endswith('/top1')]
    if not last:
        return '<p class="soft">Nothing is evaluated yet.</p>'
    rows = [[metric_name(key.removesuffix('/top1')), f'{value:.1f}'] for key, value in last]
    note = f'Top-1 accuracy in percent of the last validation, epoch {validation[-1]["step"]}; not tested yet.'
    return table(['metric', 'top-1'], rows) + f'<p class="soft">{note}</p>'


def _add_health(page: Page, train: Sequence[Record], alerts: Sequence[Sequence[Any]]) -> None:
    keys = sorted({key for record in train for key in record if key.startswith('health/')})
    if not keys and not alerts:
        return
    page.add('<h2>Health of the features</h2>')
    rows = ''.join(f'<p class="warning">Iteration {safe(step)}: {safe(text)}</p>' for step, text in alerts)
    page.add(rows or '<p class="soft">No alert. What the statistics mean is in docs/health.md.</p>')
    page.add_plots(value_plots(train, keys, [float(step) for step, _ in alerts]))


def _add_pictures(page: Page, run: RunFiles, facts: Mapping[str, Any]) -> None:
    sheets = [(VIEWS, 'Views and mixtures', 'Views of the first batch, and mixtures as the run draws them')]
    sheets.append((NEIGHBOURS, 'Nearest neighbours', str((facts.get('neighbours') or {}).get('caption', ''))))
    for name, title, caption in sheets:
        wanted = name == VIEWS or facts.get('neighbours')
        if wanted and (run.path / name).is_file():
            try:
                image = picture(run.path / name, 'sheet', caption)
            except (OSError, ValueError) as error:
                image = f'<p class="warning">{safe(name)} cannot be read: {safe(error)}</p>'
            page.add(f'<h2>{title}</h2>', image, f'<p class="soft">{safe(caption)}</p>' if caption else '')
    embedding = facts.get('embedding') or {}
    if embedding:
        page.add('<h2>Embedding</h2>')
        page.add_plots(_embedding_plots(embedding))
        page.add(f'<p class="soft">{safe(embedding.get("caption", ""))}</p>')


def _embedding_plots(embedding: Mapping[str, Any]) -> Iterator[Plot]:
    labels, names = embedding['labels'], embedding['classes']
    for method, points in embedding['points'].items():
        series = []
        whole = len(points) == len(labels)
        rows = range(len(labels)) if whole else embedding['chosen'][method]
        for number, name in enumerate(names):
            own = [(x, y) for (x, y), row in zip(points, rows, strict=True) if labels[row] == number]
            series.append(Series(str(name), own, number))
        axes = ('first component', 'second component') if method == 'pca' else ('', '')
        yield Plot(METHODS.get(method, method), *axes, series, scatter=True, note=f'{len(points)} images')


def _add_config(page: Page, facts: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    rows = facts.get('config') or [[key, repr(value), ''] for key, value in leaves(config)]
    if not rows:
        return
    body = ''.join('<tr>' + ''.join(f'<td>{safe(_cut(str(cell)))}</td>' for cell in row) + '</tr>' for row in rows)
    head = '<thead><tr><th>key</th><th>value</th><th>from</th></tr></thead>'
    page.add(
        f'<details><summary>Config, {len(rows)} values</summary><div class="scroll"><table class="data wide">{head}'
        f'<tbody>{body}</tbody></table></div></details>'
    )


def _cut(words: str) -> str:
    return words if len(words) <= _LONGEST else f'{words[:_LONGEST]}…'
