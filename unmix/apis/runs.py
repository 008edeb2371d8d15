"""The command that lists the runs in a folder."""

import argparse
import datetime
from collections.abc import Iterator, Sequence
from pathlib import Path

from unmix.utils.names import shown
from unmix.utils.run_files import LOCK, RunFiles, accuracies, find_runs, read_scalars
from unmix.utils.streams import reader_may_leave

COLUMNS = ('RUN', 'METHOD', 'DATA', 'SEED', 'EPOCHS', 'STATE', 'KNN', 'LINEAR', 'DATE')


def runs(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Print the runs in a folder; ``prog`` is the name of the command in messages.

    Raises:
        FileNotFoundError: If there is none.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description='Runs in a folder: method, data, seed, epochs, state, kNN and linear accuracy, date.'
    )
    parser.add_argument('folder', nargs='?', default='work_dirs', help='default: work_dirs')
    folder = Path(parser.parse_args(arguments).folder).expanduser()
    found = list(find_runs(folder))
    if not found:
        there = 'holds no run' if folder.is_dir() else 'does not exist'
        raise FileNotFoundError(f'{shown(folder)} {there}. Give the folder of work dirs, as --work-dir has named them.')
    with reader_may_leave():
        print('\n'.join(table([COLUMNS, *(_row(path, folder) for path in found)])))


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, aligned by columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _row(path: Path, folder: Path) -> tuple[str, ...]:
    run = RunFiles(path)
    found = accuracies(run)
    knn, linear = ([value for name, value in found.items() if name.split('_')[0] == kind] for kind in ('knn', 'linear'))
    seed, config, epochs = run.seed, run.config, run.results.get('epochs', run.facts.get('epochs'))
    if epochs is None and (train := read_scalars(run.logs)[0]):
        epochs = train[-1].get('epoch')
    planned = (config.get('train_cfg') or {}).get('max_epochs')
    cells = (
        shown(path.relative_to(folder)) if path != folder else shown(path.absolute().name),
        run.method,
        run.data,
        '' if seed is None else str(seed),
        '' if epochs is None else f'{epochs}/{planned}' if planned else str(epochs),
        run.state,
        *(f'{rows[0]:.1f}' if rows else '' for rows in (knn, linear)),
        _date(run),
    )
    return tuple(cell or '-' for cell in cells)


def _date(run: RunFiles) -> str:
    """Return when files of the run were changed last."""
    files = [file for file in run.path.iterdir() if file.is_file() and file.name != LOCK]
    newest = max((file.stat().st_mtime for file in [*files, *run.logs]), default=0.0)
    return datetime.datetime.fromtimestamp(newest).strftime('%Y-%m-%d %H:%M')
