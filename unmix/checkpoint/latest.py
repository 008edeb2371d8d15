"""Which checkpoint of a work directory is the newest that is whole."""

import logging
import math
import re
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log

from unmix.checkpoint.files import verify
from unmix.checkpoint.load import allowed_globals
from unmix.utils.dist import agreed
from unmix.utils.files import atomic_path

LATEST = 'last_checkpoint'  # the file that names the newest checkpoint, as MMEngine calls it
PASSING = 'passing_ckpts'  # the list, in the message hub, of those that the next regular one replaces
_RESUMABLE = re.compile(r'(?!best_)[^.].*_\d+\.pth')


def name_latest(work_dir: str, path: str) -> None:
    """Let ``last_checkpoint`` in the work directory name a checkpoint, which has to be complete."""
    with atomic_path(Path(work_dir, LATEST)) as temporary:
        temporary.write_text(path)


def find_latest_checkpoint(path: str) -> str | None:
    """Stand in for MMEngine's function of this name: the newest checkpoint of a work directory that is whole.

    It is the one that ``last_checkpoint`` names, or else, with a warning, the whole one that has trained longest. Every
    rank must call it; rank 0 looks.

    Returns:
        Its path; None if the directory has no checkpoint.

    Raises:
        ValueError: If it has some, and none is whole.
    """
    found: list[str | None] = [None]
    with agreed():
        if is_main_process():
            found[0] = newest_whole(Path(path))
    broadcast_object_list(found, src=0)
    return found[0]


def newest_whole(work_dir: Path) -> str | None:
    """Do what :func:`find_latest_checkpoint` does, on this rank alone."""
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
    """The checkpoint that ``last_checkpoint`` names, then the others from the newest on."""
    try:
        named = Path((work_dir / LATEST).read_text().strip())
    except (FileNotFoundError, UnicodeDecodeError):
        named = Path()
    here = work_dir / named.name
    if here.is_file() and (not named.exists() or (named.parent / LATEST).exists()):
        named = here  # moved, copied, or seen from another directory
    folders = {work_dir}
    if named.suffix == '.pth':
        yield named
        folders.add(named.parent)
    files = chain.from_iterable(folder.iterdir() for folder in folders if folder.is_dir())
    others = [path for path in files if _RESUMABLE.fullmatch(path.name)]
    yield from sorted((path for path in others if path != named), key=_position, reverse=True)


def _position(path: Path) -> tuple[float, float, int]:
    """Iterations and epochs done, of which no tensor is read; then the date, which a copy may have changed.

    What cannot be read comes first, so that it is not passed over without a word.
    """
    try:
        with torch.serialization.safe_globals(allowed_globals()):
            meta = torch.load(path, map_location='meta', mmap=True, weights_only=True)['meta']
        done = float(meta['iter']), float(meta.get('epoch', 0))
    except Exception:  # a damaged pickle can raise anything
        done = math.inf, math.inf
    return *done, path.stat().st_mtime_ns


def _problem(path: Path) -> str | None:
    """Why a checkpoint cannot be resumed; without a seal the checksums of its archive count."""
    try:
        if not verify(path):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise ValueError(f'its record {archive.testzip()} is damaged')
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        return f'checkpoint {str(path)!r} cannot be used: {error}'
    return None
