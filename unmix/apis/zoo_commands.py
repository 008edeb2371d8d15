"""The commands on the model zoo."""

import argparse
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from unmix import zoo
from unmix.config import config_files, config_root, load_config
from unmix.config.check import suggest
from unmix.utils.files import atomic_path
from unmix.utils.streams import reader_may_leave
from unmix.zoo.index import TRUST, Entry, entries

COLUMNS = ('NAME', 'DATA', 'EPOCHS', 'PUBLISHED', 'OURS', 'WEIGHTS')


def list_entries(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Print the models of the zoo, or the names of the configs; ``prog`` is the name of the command in messages."""
    parser = argparse.ArgumentParser(
        prog=prog, description='Models of the zoo: top-1 accuracy as published and as measured here, and weights.'
    )
    parser.add_argument('pattern', nargs='?', default='*', help="part of a name, or a pattern as in a shell: 'moco*'")
    parser.add_argument('--pretrained', action='store_true', help='only models with weights')
    parser.add_argument('--configs', action='store_true', help='names of configs, those of evaluations too')
    args = parser.parse_args(arguments)
    pattern = args.pattern if set(args.pattern) & set('*?[') else f'*{args.pattern}*'
    if args.configs:
        names = [path.relative_to(config_root()).with_suffix('').as_posix() for path in config_files()]
        lines = [name for name in names if fnmatchcase(name, pattern)]
    else:
        names, found = zoo.list_models(pretrained=args.pretrained), entries()
        lines = list(_table([_row(found[name]) for name in names if fnmatchcase(name, pattern)]))
    if not lines:
        parts = {part for name in names for part in re.split('[-_/]', name)}
        hint = suggest(args.pattern.strip('*'), {*names, *parts}, f"'{parser.prog}' without a pattern prints all.")
        raise ValueError(f'No name{" of a model with weights" if args.pretrained else ""} has {args.pattern!r}. {hint}')
    with reader_may_leave():
        print('\n'.join(lines))


def _row(entry: Entry) -> tuple[str, ...]:
    """Return the cells of a model."""
    metadata = entry.content.get('Metadata') or {}
    figures: dict[bool, list[str]] = {True: [], False: []}
    for result in entry.content.get('Results') or []:
        for metric, value in (result.get('Metrics') or {}).items():
            figures[bool(result.get('Published'))].append(f'{metric.split(" Top 1")[0]} {value}')
    columns = (', '.join(figures[published]) or '-' for published in (True, False))
    said = (str(metadata.get(key, '-')) for key in ('Training Data', 'Epochs'))
    return entry.name, *said, *columns, 'yes' if entry.weights else '-'


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, aligned by columns; none without rows."""
    table = [COLUMNS, *rows] if rows else []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def download(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Write the weights and the config of a model to a folder; ``prog`` is the name of the command in messages."""
    parser = argparse.ArgumentParser(prog=prog, description='Weights of a model, verified, and its config in one file.')
    parser.add_argument('name', help="a name of 'unmix list --pretrained'")
    parser.add_argument('--directory', default='.', help='where they go (default: here)')
    parser.add_argument('--trust', action='store_true', help=TRUST)
    args = parser.parse_args(arguments)
    weights = zoo.download(args.name, args.directory)
    entry = zoo.find_model(args.name)
    try:
        source = entry.config_to_read(args.trust)
    except ValueError as error:
        print(f'{weights}\nwithout its config: {error}')
        return
    config = Path(args.directory).expanduser() / f'{entry.name}.py'
    with atomic_path(config) as path:
        load_config(str(source)).dump(path)
    print(f'{config}\n{weights}')
