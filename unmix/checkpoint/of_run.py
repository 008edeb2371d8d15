"""A run in the place of a checkpoint: its newest checkpoint, and the config that it has left."""

import logging
import re
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from unmix.checkpoint.contents import read_contents
from unmix.checkpoint.identity import FREE, LATEST
from unmix.checkpoint.latest import search

_SUFFIXES = ('.pth', '.pt')
_SCHEME = re.compile(r'\w[\w+.-]*(?:://|::)')
_TIME = re.compile(r'_\d{8}_\d{6}$')  # at the end of the name of an experiment, which begins with that of its config


def is_place(name: str | Path) -> bool:
    """Return whether a name is a path of a checkpoint or of a run, there or not, and no name of the model zoo."""
    path = Path(name).expanduser()
    if path.is_dir():
        return any(path.glob('*.pth')) or (path / LATEST).is_file() or len(path.parts) > 1 or str(name).startswith('.')
    return path.is_file() or (not _SCHEME.match(str(name)) and (path.suffix in _SUFFIXES or len(path.parts) > 1))


def checkpoint_of(place: str | Path) -> Path:
    """Return the checkpoint that a path means: a file is one itself, a directory has the newest one of its run.

    That is the one that ``--resume`` would go on from, or else the only file ``*.pth`` there.

    Args:
        place: A file, which need not exist, or the work dir of a run.

    Raises:
        FileNotFoundError: If a directory has no checkpoint.
        ValueError: If it has several of which none is known to be the newest, or they are damaged.
    """
    path = Path(place).expanduser()
    if not path.is_dir():
        return path
    newest, problems = search(path)
    if newest is not None:
        if problems:
            print_log(
                f'{"; ".join(problems)}. {newest} is taken, the newest of this run that is whole',
                'current',
                logging.WARNING,
            )
        return Path(newest)
    files = sorted(file for file in path.glob('*.pth') if file.name[0] != '.')
    if len(files) == 1 and not problems:
        return files[0]
    if not files and not problems:
        raise FileNotFoundError(
            f'{place} holds no checkpoint (*.pth). Give the work dir of a run, or the path of a checkpoint.'
        )
    why = '; '.join(problems) or f'it has {", ".join(file.name for file in files)}'
    raise ValueError(f'{place} has no newest checkpoint: {why}. Give the path of one of them.')


def config_beside(checkpoint: str | Path) -> Path:
    """Return the config that a training has left beside its checkpoint.

    It is the file whose text is that of the config in the checkpoint, or else the one of the name of the checkpoint's
    config, which may have been changed since; a warning says so. No other file is taken, since a config is a program.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the checkpoint cannot be read.
    """
    path = Path(checkpoint)
    meta = _meta(path)
    files = sorted(path.parent.glob('*.py'))
    text = _effective(str(meta.get('cfg') or ''))
    for file in files:
        if text and _effective(file.read_text(encoding='utf-8', errors='surrogateescape')) == text:
            return file
    names = {_TIME.sub('', str(meta.get('experiment_name', ''))), str(meta.get('config', ''))}
    for file in files:
        if file.stem in names:
            if text:
                print_log(
                    f'{file} is taken. It differs from the config that {path.name} was trained by, but has its name: '
                    'it was changed, or is that of a later run. To take another one, give that',
                    'current',
                    logging.WARNING,
                )
            return file
    listed = f'; beside it are {", ".join(file.name for file in files)}' if files else ''
    raise FileNotFoundError(
        f'The config of {checkpoint} is not beside it{listed}. Give the config that it was trained by.'
    )


def _meta(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f'The checkpoint {path} does not exist.')
    try:
        content = read_contents(path)
    except ValueError as error:
        raise ValueError(f'checkpoint {str(path)!r} cannot be read: {error}') from error
    meta = content.get('meta') if isinstance(content, dict) else None
    return meta if isinstance(meta, dict) else {}


def _effective(text: str) -> list[str]:
    """Return the lines of a config without those that have no effect on a training."""
    return [line for line in map(str.rstrip, text.splitlines()) if line and not FREE.match(line)]
