"""Search for the newest undamaged checkpoint of a work directory."""

import logging
import math
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log

from unmix.checkpoint.contents import read_contents
from unmix.checkpoint.files import verify
from unmix.utils.dist import agreed
from unmix.utils.files import atomic_path

LATEST = 'last_checkpoint'  # MMEngine's file with the path of the newest checkpoint
PASSING = 'passing_ckpts'  # entry of the message hub: checkpoints that are removed after the next regular one
_RESUMABLE = re.compile(r'(?!best_)[^.].*_\d+\.pth')


def name_latest(work_dir: str, path: str) -> None:
    """Write the path of a complete checkpoint to ``last_checkpoint`` in the work directory."""
    with atomic_path(Path(work_dir, LATEST)) as temporary:
        temporary.write_text(path, encoding='utf-8', errors='surrogateescape')


def find_latest_checkpoint(path: str) -> str | None:
    """Return the path of the newest undamaged checkpoint of a work directory; replaces MMEngine's function.

    It is the one that ``last_checkpoint`` names. If that one is damaged, it is the undamaged one with the most
    iterations, and a warning is logged. Every rank must call this function; rank 0 searches.

    Returns:
        The path; None if the directory has no checkpoint.

    Raises:
        ValueError: If all checkpoints are damaged.
    """
    found: list[str | None] = [None]
    with agreed():
        if is_main_process():
            found[0] = newest_whole(Path(path))
    broadcast_object_list(found, src=0)
    return found[0]


def newest_whole(work_dir: Path) -> str | None:
    """Do the same as :func:`find_latest_checkpoint`, on this rank alone."""
    problems: list[str] = []
    for candidate in _candidates(work_dir):
        problem = _problem(candidate)
        if problem is None:
            if problems:
                print_log(
                    f'{"; ".join(problems)}. Going on from {candidate}, the newest that is whole',
                    'current',
                    logging.WARNING,
                )
            return str(candidate)
        problems.append(problem)
    if problems:
        raise ValueError(
            f'{work_dir} has no checkpoint to resume: {"; ".join(problems)}. Give a good one by --resume PATH, or '
            'start anew in another --work-dir'
        )
    return None


def _candidates(work_dir: Path) -> Iterator[Path]:
    """Yield the checkpoint that ``last_checkpoint`` names, then the others, newest first."""
    try:
        named = Path((work_dir / LATEST).read_text(encoding='utf-8', errors='surrogateescape').strip())
    except (FileNotFoundError, UnicodeDecodeError):
        named = Path()
    here = work_dir / named.name
    if here.is_file() and (not named.exists() or (named.parent / LATEST).exists()):
        named = here  # the directory was moved or copied, or the path is relative to another directory
    folders = {work_dir}
    if named.suffix == '.pth':
        yield named
        folders.add(named.parent)
    files = chain.from_iterable(folder.iterdir() for folder in folders if folder.is_dir())
    others = [path for path in files if _RESUMABLE.fullmatch(path.name)]
    yield from sorted((path for path in others if path != named), key=_position, reverse=True)


def _position(path: Path) -> tuple[float, float, int]:
    """Return iterations, epochs and date; no tensor is read. The date comes last, since a copy may have changed it.

    A file that cannot be read counts as the newest, so that a warning names it.
    """
    try:
        meta = read_contents(path)['meta']
        done = float(meta['iter']), float(meta.get('epoch', 0))
    except Exception:  # a damaged pickle can raise anything
        done = math.inf, math.inf
    return *done, path.stat().st_mtime_ns


def _problem(path: Path) -> str | None:
    """Return why a checkpoint cannot be read, or None."""
    try:
        if not verify(path):
            read_contents(path)
    except (OSError, ValueError) as error:
        return f'checkpoint {str(path)!r} cannot be used: {error}'
    return None
