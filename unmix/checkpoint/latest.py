"""Search for the newest undamaged checkpoint of a work directory."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log

from unmix.checkpoint.contents import read_contents
from unmix.checkpoint.files import verify
from unmix.checkpoint.identity import LATEST, Saved, is_weights, read_saved
from unmix.utils.dist import agreed
from unmix.utils.run_files import current_run

PASSING = 'passing_ckpts'  # entry of the message hub: checkpoints that are removed after the next regular one
_RESUMABLE = re.compile(r'(?!best_)[^.].*_\d+\.pth')


def find_latest_checkpoint(path: str) -> str | None:
    """Return the path of the newest undamaged checkpoint of the run of a work directory; replaces MMEngine's function.

    The run is the one that was started there last (``run.json``). Its newest checkpoint is the one that
    ``last_checkpoint`` names. If that one is damaged, it is the undamaged one with the most iterations, and a warning
    is logged. Checkpoints of other runs, and files that are no checkpoints of a training, are never taken. Every rank
    must call this function; rank 0 searches.

    Returns:
        The path; None if the directory has no checkpoint.

    Raises:
        ValueError: If there are checkpoints, but all are damaged or of other runs.
    """
    found: list[str | None] = [None]
    with agreed():
        if is_main_process():
            found[0] = newest_whole(Path(path))
    broadcast_object_list(found, src=0)
    return found[0]


def newest_whole(work_dir: Path) -> str | None:
    """Do the same as :func:`find_latest_checkpoint`, on this rank alone."""
    path, problems = search(work_dir)
    if path is not None and problems:
        print_log(
            f'{"; ".join(problems)}. Going on from {path}, the newest of this run that is whole',
            'current',
            logging.WARNING,
        )
    if path is None and problems:
        raise ValueError(
            f'{work_dir} has no checkpoint to resume: {"; ".join(problems)}. Give a good one by --resume PATH, or '
            'start anew in another --work-dir'
        )
    return path


def search(work_dir: Path) -> tuple[str | None, list[str]]:
    """Search for the newest whole checkpoint of the run of a work directory.

    Without ``run.json`` the run is that of the checkpoint that ``last_checkpoint`` names; if that one is damaged, all
    checkpoints must be of one run.

    Returns:
        Its path or None, and why newer files are not taken.
    """
    run = current_run(work_dir)
    named, others = _files(work_dir)
    problems: list[str] = []
    for path in named:
        saved, problem = read_saved(path), _problem(path)
        if problem is None and saved is None and not is_weights(path):
            return str(path), problems  # it holds other types than weights; whoever loads it says so
        if problem is None and (saved is None or not saved.resumable):
            problem = f'{path}, which {LATEST} names, is no checkpoint of a training'
        if problem is None and run is not None and not saved.belongs(run):  # type: ignore[union-attr]
            problem = f'{path} is not of the run that was started last in {work_dir}'
        if problem is None:
            return str(path), problems
        problems.append(problem)
    readable = [saved for saved in map(read_saved, others) if saved is not None]
    unreadable = set(others) - {saved.path for saved in readable}
    problems += [_problem(path) or f'{path} cannot be read' for path in sorted(unreadable) if not is_weights(path)]
    candidates = sorted((saved for saved in readable if saved.resumable), key=lambda saved: saved.order, reverse=True)
    if run is None and len({saved.run[0][0] for saved in candidates}) > 1:
        names = ', '.join(saved.path.name for saved in candidates)
        return None, [*problems, f'{names} are of several runs, and {LATEST} names none of them']
    foreign = [saved for saved in candidates if run is not None and not saved.belongs(run)]
    for saved in candidates:
        if saved in foreign:
            continue
        problem = _problem(saved.path)
        if problem is None:
            return str(saved.path), problems
        problems.append(problem)
    return None, problems + _foreign(foreign)


def _foreign(saved: Sequence[Saved]) -> list[str]:
    if not saved:
        return []
    names = ', '.join(one.path.name for one in saved)
    return [f'{names} (newest: {saved[0].path}) are of another run than the one that was started there last']


def _files(work_dir: Path) -> tuple[list[Path], list[Path]]:
    """Return the files that ``last_checkpoint`` may mean, and all others with names of checkpoints."""
    try:
        pointer = Path((work_dir / LATEST).read_text(encoding='utf-8', errors='surrogateescape').strip())
    except (OSError, ValueError):
        pointer = Path()
    named, folders = [], {work_dir}
    if pointer.suffix == '.pth' and '\0' not in str(pointer):
        here = work_dir / pointer.name
        named = [pointer]
        if here.is_file() and (not pointer.exists() or (pointer.parent / LATEST).exists()):
            # The directory was moved or copied, or the path is relative to another directory.
            named = [here, pointer] if pointer.exists() and pointer.resolve() != here.resolve() else [here]
        folders.add(pointer.parent)
    files = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return named, [path for path in files if _RESUMABLE.fullmatch(path.name) and path not in named]


def _problem(path: Path) -> str | None:
    """Return why a checkpoint cannot be read, or None."""
    try:
        if not verify(path):
            read_contents(path)
    except (OSError, ValueError) as error:
        return f'checkpoint {str(path)!r} cannot be used: {error}'
    return None
