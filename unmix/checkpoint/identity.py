"""Which run a checkpoint is of.

A run is the list of its starts, ``[[id, iteration], ...]``: the first one, and one for each resumption, with the
iteration where it went on. Each checkpoint holds the starts before it (``meta['run']``), and ``run.json`` in the work
directory those of the run that was started there last. So a checkpoint of another run is known, and so is one of an
abandoned branch: of iterations that a run did before it was resumed from an earlier checkpoint.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from unmix.checkpoint.contents import read_contents
from unmix.checkpoint.files import verify
from unmix.utils.dist import agreed
from unmix.utils.files import atomic_path
from unmix.utils.run_files import FINISHED, KEY, NOTE, Starts, current_run, read_json

LATEST = 'last_checkpoint'  # MMEngine's file with the path of the newest checkpoint
FREE = re.compile(r'(experiment_name|launcher|load_from|resume|work_dir) = ')  # lines of a config without an effect
_BEFORE = '00000000_000000_'  # start of the ids of runs whose checkpoints have none; sorts before any date
_SHOWN = 6


class Saved(NamedTuple):
    """What a checkpoint file says about itself.

    Attributes:
        path: The file.
        run: The starts of its run.
        iteration: Iterations done.
        epoch: Epochs done.
        resumable: Whether it has what a resumption needs, so is neither plain weights nor a ``best_*`` file.
    """

    path: Path
    run: Starts
    iteration: int
    epoch: int
    resumable: bool

    def belongs(self, run: Starts) -> bool:
        """Return whether it was written by this run, before the run left for another branch."""
        count = len(self.run)
        return run[:count] == self.run and (count == len(run) or self.iteration <= run[count][1])

    @property
    def order(self) -> tuple[int, int, int, int]:
        """Key that sorts the checkpoints of a run by age; the date comes last, since a copy may have changed it."""
        return len(self.run), self.iteration, self.epoch, self.path.stat().st_mtime_ns


def read_saved(path: str | Path) -> Saved | None:
    """Read what a checkpoint file says about itself; None if it cannot be read, or is of no training."""
    try:
        checkpoint = read_contents(path)
        meta = checkpoint['meta']
        place = int(meta['iter']), int(meta.get('epoch') or 0)
        return Saved(Path(path), run_of(meta), *place, 'optimizer' in checkpoint)
    except Exception:  # a damaged pickle can raise anything
        return None


def is_weights(path: str | Path) -> bool:
    """Return whether a file can be read, but is no checkpoint of a training: it has no ``meta`` with an iteration."""
    try:
        content = read_contents(path)
    except Exception:
        return False
    meta = content.get('meta') if isinstance(content, Mapping) else None
    return not isinstance(meta, Mapping) or 'iter' not in meta


def _intact(path: Path) -> bool:
    try:
        verify(path)
    except (OSError, ValueError):
        return False
    return True


def run_of(meta: Mapping[str, Any]) -> Starts:
    """Return the starts of the run that wrote a checkpoint.

    Checkpoints of old versions have none. They get an id of their config and seed, since two runs with the same config
    and seed are the same training.
    """
    if KEY in meta:
        return [list(start) for start in meta[KEY]]
    lines = [line for line in str(meta.get('cfg', '')).splitlines() if not FREE.match(line)]
    digest = hashlib.sha256('\n'.join([*lines, f'seed {meta.get("seed")}']).encode(errors='surrogateescape'))
    return [[_BEFORE + digest.hexdigest()[:8], 0]]


def _write_note(work_dir: str | Path, note: Mapping[str, Any]) -> None:
    with atomic_path(Path(work_dir, NOTE)) as temporary:
        temporary.write_text(json.dumps(note), encoding='utf-8')


def remove_own(paths: Iterable[str | Path], run: Starts) -> None:
    """Remove checkpoints of this run; those of other runs, and files that cannot be read, stay."""
    for path in map(Path, paths):
        if path.suffix == '.pth' and (saved := read_saved(path)) is not None and saved.belongs(run):
            path.unlink(missing_ok=True)


def name_latest(work_dir: str | Path, path: str | Path) -> None:
    """Write the path of a complete checkpoint to ``last_checkpoint`` in the work directory."""
    with atomic_path(Path(work_dir, LATEST)) as temporary:
        temporary.write_text(str(path), encoding='utf-8', errors='surrogateescape')


class RunHistory(Hook):
    """Gives a run its id, and keeps the starts of the run in its checkpoints.

    When training begins, rank 0 writes ``run.json``. ``last_checkpoint`` of another run is removed, and a warning names
    checkpoints of other runs that lie where this one writes. :class:`TrainLoop` owns this hook.

    Attributes:
        run: The starts; the same on all ranks.
    """

    priority = 'LOWEST'  # hooks that refuse to train come first

    def __init__(self) -> None:
        self.run: Starts = []
        self._before: Starts = []
        self._place = 0

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Take the starts of the checkpoint if the run is resumed."""
        if runner._resume and not self.run:
            meta = checkpoint['meta']
            self._before, self._place = run_of(meta), int(meta['iter'])

    def before_train(self, runner: Runner) -> None:
        """Add this start, and take the work directory."""
        name = [f'{runner.timestamp}_{uuid.uuid4().hex[:8]}']
        broadcast_object_list(name, src=0)
        self.run = [*self._before, [name[0], self._place]]
        with agreed():
            if is_main_process():
                self._take(runner)

    def after_train(self, runner: Runner) -> None:
        """Note that the training has come to its end."""
        if is_main_process():
            _write_note(runner.work_dir, {KEY: self.run, FINISHED: runner.iter})

    def finished(self, runner: Runner) -> bool:
        """Return whether a resumed run has come to its end at the iteration of its checkpoint; call it on all ranks."""
        answer = [False]
        if is_main_process() and self._before:
            run = current_run(runner.work_dir)
            of_run = run is not None and Saved(Path(), self._before, self._place, 0, True).belongs(run)
            answer = [of_run and read_json(Path(runner.work_dir, NOTE)).get(FINISHED) == self._place]
        broadcast_object_list(answer, src=0)
        return answer[0]

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the starts."""
        if self.run:
            checkpoint['meta'][KEY] = self.run

    def _take(self, runner: Runner) -> None:
        work_dir = Path(runner.work_dir)
        folders = {work_dir} | {Path(hook.out_dir) for hook in runner.hooks if getattr(hook, 'out_dir', None)}
        saved = [read_saved(path) for folder in folders for path in folder.glob('*.pth') if path.name[0] != '.']
        others = [one for one in saved if one and not one.belongs(self.run) and _intact(one.path)]
        others.sort(key=lambda one: one.order)
        if others:
            runner.logger.warning(self._of_others(others))
        _write_note(work_dir, {KEY: self.run})
        source = Path(str(runner._load_from or ''))
        if self._before and source.is_file():
            name_latest(work_dir, source)
        elif not self._before:
            (work_dir / LATEST).unlink(missing_ok=True)

    def _of_others(self, others: Sequence[Saved]) -> str:
        names = ', '.join(one.path.name for one in others[-_SHOWN:]) + (', ...' if len(others) > _SHOWN else '')
        resumable = [one.path for one in others if one.resumable]
        how = f'go on with such a run by --resume {resumable[-1]}, or ' if resumable else ''
        begins = 'goes on from another checkpoint' if self._before else 'begins anew'
        return (
            f'{others[0].path.parent} holds checkpoints that are not of this run: {names}. This run {begins}. It never '
            'resumes or removes them, but its own checkpoints replace files of the same name. If that is not wanted, '
            f'stop now and {how}give another --work-dir.'
        )
