"""Where a training goes that was given no ``--work-dir``."""

import re
from pathlib import Path

from unmix.engine.launch import begun_by_this_job
from unmix.utils.run_files import current_run


def is_used(work_dir: str | Path) -> bool:
    """Return whether a run has begun in a work dir, or left a checkpoint there."""
    return current_run(work_dir) is not None or any(Path(work_dir).glob('*.pth'))


def place_of(base: str, resume: str | None) -> str:
    """Return the work dir of a training: ``base``, or ``base_2``, ``base_3``, ... so that no run replaces another.

    * A new run has the number after those that a run has used or that hold results, and ``base`` if none does.
    * A run that torchrun has restarted has the one that it has begun.
    * ``--resume`` has the last one that a run has used; ``--resume PATH`` that of the checkpoint, if it is one of them.

    All processes of a run call it before they are connected, so before one of them writes anything.

    Args:
        base: The default of the config.
        resume: Argument of ``--resume``; None for a new run.
    """
    places = _numbered(Path(base))
    begun = {number: place for number, place in places.items() if is_used(place)}
    for place in begun.values():
        if begun_by_this_job(place):
            return str(place)
    if resume == 'auto':
        return str(begun[max(begun)]) if begun else base
    if resume is not None:
        own = [place for place in begun.values() if place.resolve() in Path(resume).expanduser().resolve().parents]
        if own:
            return str(own[0])
    used = [*begun, *(number for number, place in places.items() if (place / 'results.json').is_file())]
    return f'{base}_{max(used) + 1}' if used else base


def _numbered(base: Path) -> dict[int, Path]:
    """Return the directories ``base`` (number 1) and ``base_N``, those that exist."""
    pattern = re.compile(re.escape(base.name) + r'(?:_([1-9]\d*))?')
    found = {}
    for place in base.parent.iterdir() if base.parent.is_dir() else ():
        match = pattern.fullmatch(place.name)
        if match and place.is_dir():
            found[int(match[1] or 1)] = place
    return found
