"""What a run has left in its work directory, read without PyTorch and MMEngine.

A work directory holds one log folder for each start, named by date and time, as MMEngine makes them; ``run.json`` says
with which of them the present run began.
"""

import ast
import datetime
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from unmix.utils.names import shown

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NOTE = 'run.json'
KEY = 'run'  # in `meta` of a checkpoint, and in the note
FINISHED = 'finished'  # in the note: the iteration at the end of the training
LOCK = '.lock'
FACTS = 'report.json'
RESULTS = 'results.json'
LOGS = '*/vis_data/scalars.json'
STAMP = '%Y%m%d_%H%M%S'  # name of a log folder
OWN: set[Path] = set()  # directories that this process trains in
Starts = list[list[Any]]  # of [id, iteration]; an id starts with the date and time of Runner.timestamp
Record = dict[str, Any]


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file; {} if there is none, or it is damaged or no mapping."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def current_run(work_dir: str | Path) -> Starts | None:
    """Return the run that was started last in a work directory; None if there is no (readable) ``run.json``."""
    try:
        run = [[str(name), int(iteration)] for name, iteration in read_json(Path(work_dir, NOTE))[KEY]]
    except (ValueError, KeyError, TypeError):
        return None
    return run or None


def first_day(run: Starts | None) -> str:
    """Return the date and time of the first start of a run, as in the names of log folders; '' if it is not known."""
    return run[0][0][:15] if run else ''


def read_scalars(files: Iterable[str | Path]) -> tuple[list[Record], list[Record]]:
    """Read the records of a training and of its validations from MMEngine's ``scalars.json`` files.

    Lines that are not complete, of a run that was killed or is writing now, are left out.

    Args:
        files: Oldest first. From its first step on a later file replaces the earlier ones, so that a resumed training
            gives one curve, and a training that was started again hides the old one.

    Returns:
        Training records (with ``loss`` and ``step``, an iteration), validation records (``step`` is an epoch or
        iteration).
    """
    train: list[Record] = []
    validation: list[Record] = []
    for file in files:
        records = list(_records(Path(file)))
        for kept, new in (
            (train, [record for record in records if 'loss' in record]),
            (validation, [record for record in records if 'loss' not in record and any('/' in key for key in record)]),
        ):
            if new:
                kept[:] = [record for record in kept if record['step'] < new[0]['step']] + new
    return train, validation


def _records(file: Path) -> Iterator[Record]:
    for line in file.read_text(encoding='utf-8', errors='replace').splitlines():
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and 'step' in record:
                yield record


class RunFiles:
    """A run, by its work directory. Each file is read once, when it is asked for, and none has to be there.

    Args:
        work_dir: The directory, or a log folder in it.

    Attributes:
        path: The work directory.
        starts: Those of the run, see :func:`current_run`.

    Raises:
        FileNotFoundError: If there is no run; names those that lie below.
    """

    def __init__(self, work_dir: str | Path) -> None:
        path = Path(work_dir).expanduser()
        if not is_run(path) and is_run(path.absolute().parent) and (path / 'vis_data').is_dir():
            path = path.parent
        if not is_run(path):
            below = [shown(other) for other in find_runs(path)][:4]
            there = f'{shown(path)} holds no run' if path.exists() else f'There is no {shown(path)}'
            advice = f'Give one below it: {", ".join(below)}.' if below else 'Give the work dir of a training.'
            raise FileNotFoundError(f'{there} ({NOTE}, {RESULTS} or {LOGS}). {advice}')
        self.path = path
        self.starts = current_run(path)

    @cached_property
    def logs(self) -> list[Path]:
        """``scalars.json`` of each start of this run, oldest first; those of earlier runs in the directory are not."""
        begin = first_day(self.starts)
        files = sorted(self.path.glob(LOGS))
        return [file for file in files if file.parents[1].name >= begin and file.stat().st_size]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the run has noted about itself; {} for a run of another program, or of an earlier version."""
        facts = read_json(self.path / FACTS)
        same = self.starts is None or facts.get('run') in (None, self.starts[0][0])
        return facts if same else {}

    @cached_property
    def results(self) -> dict[str, Any]:
        """``results.json``; {} if it is of an earlier run in the directory."""
        path = self.path / RESULTS
        if not path.is_file():
            return {}
        written = datetime.datetime.fromtimestamp(path.stat().st_mtime).strftime(STAMP)
        return read_json(path) if written >= first_day(self.starts) else {}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config in plain containers, from the copy of the newest start; {} if there is none."""
        copies = sorted(self.path.glob('*/vis_data/config.py')) or sorted(
            self.path.glob('*.py'), key=lambda file: file.stat().st_mtime
        )
        return read_flat_config(copies[-1]) if copies else {}

    @property
    def state(self) -> str:
        """``'running'``, ``'ended'``, ``'interrupted'``, or ``'evaluated'`` where nothing was trained."""
        if is_locked(self.path):
            return 'running'
        if self.starts is not None:
            return 'ended' if FINISHED in read_json(self.path / NOTE) else 'interrupted'
        logs = self.logs
        if not logs or not read_scalars(logs)[0]:
            return 'evaluated'
        return 'ended' if self.results else 'unknown'

    @property
    def method(self) -> str:
        """Name of the method, with Un-Mix if it has that."""
        return str(self.facts.get('name') or method_of(self.config))

    @property
    def seed(self) -> int | None:
        """The seed; None if it was drawn and not noted."""
        config = self.config.get('randomness') or {}
        return next(
            (s for s in (self.facts.get('seed'), self.results.get('seed'), config.get('seed')) if s is not None), None
        )

    @property
    def data(self) -> str:
        """Type and part of the data that were trained on."""
        return str(self.facts.get('data') or data_of(self.config))

    @property
    def seconds(self) -> float | None:
        """Seconds that all starts took; None if it is not known."""
        starts = self.facts.get('starts') or []
        if starts:
            return float(sum(start.get('seconds') or 0 for start in starts))
        spans = []
        for log in self.logs:
            with suppress(ValueError):
                begin = datetime.datetime.strptime(log.parents[1].name, STAMP)
                spans.append((datetime.datetime.fromtimestamp(log.stat().st_mtime) - begin).total_seconds())
        return sum(spans) if spans else None


def is_run(path: Path) -> bool:
    """Return whether a directory is the work directory of a run."""
    return any((path / name).is_file() for name in (NOTE, RESULTS, FACTS)) or next(path.glob(LOGS), None) is not None


def find_runs(folder: str | Path, depth: int = 4) -> Iterator[Path]:
    """Yield the work directories in a folder, at most ``depth`` folders down, in order of their names."""
    folder = Path(folder)
    if is_run(folder):
        yield folder
    elif depth and folder.is_dir():
        with suppress(OSError):
            names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != '.')
            for name in names:
                yield from find_runs(folder / name, depth - 1)


def is_locked(work_dir: Path) -> bool:
    """Return whether a process trains in a work directory, as far as locks of files reach."""
    path = work_dir / LOCK
    if work_dir.resolve() in OWN:  # to close the file would give the lock back
        return True
    if fcntl is None or not path.is_file():
        return False
    try:
        with open(path, 'rb') as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return os.access(path, os.R_OK)
    except OSError:  # no locks here
        return False
    return False


def method_of(config: Mapping[str, Any]) -> str:
    """Return the name of the method of a config, ``MoCo + Un-Mix``; '' without a model."""
    model = config.get('model') or {}
    return str(model.get('type', '')) + (' + Un-Mix' if model.get('unmix') else '')


def data_of(config: Mapping[str, Any]) -> str:
    """Return type, part and folder of the data to train on, or to test on; '' without any."""
    loader = config.get('train_dataloader') or config.get('test_dataloader') or {}
    dataset = loader.get('dataset') or {}
    while isinstance(dataset, Mapping) and isinstance(dataset.get('dataset'), Mapping):
        dataset = dataset['dataset']
    if not isinstance(dataset, Mapping):
        return ''
    words = [str(dataset[key]) for key in ('type', 'split') if dataset.get(key)]
    return ' '.join(words + ([shown(str(dataset['data_root']))] if dataset.get('data_root') else []))


def read_flat_config(path: Path) -> dict[str, Any]:
    """Return the values of a config as MMEngine writes them, with all bases in it; the file is not executed.

    What is no literal stays as its text.
    """
    try:
        tree = ast.parse(path.read_text(encoding='utf-8'))
    except (OSError, SyntaxError, ValueError):
        return {}
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = _value(node.value)
    return found


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        return {str(word.arg): _value(word.value) for word in node.keywords}
    if isinstance(node, ast.Dict):
        return {_value(k): _value(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def leaves(node: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """Yield the values of nested containers with their keys, ``model.head.dim``; short lists of values are values."""
    items: list[tuple[Any, Any]] = []
    if isinstance(node, Mapping):
        items = list(node.items())
    elif isinstance(node, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in node):
        items = list(enumerate(node))
    if not items:
        yield key, node
    for name, value in items:
        yield from leaves(value, f'{key}.{name}' if key else str(name))


def accuracies(run: RunFiles) -> dict[str, float]:
    """Return top-1 accuracy by metric: of the test, else of the last validation."""
    found = {
        name: float(row['top1'])
        for name, row in run.results.items()
        if isinstance(row, Mapping) and isinstance(row.get('top1'), int | float)
    }
    if found:
        return found
    validation = read_scalars(run.logs)[1]
    last = validation[-1] if validation else {}
    return {key.removesuffix('/top1'): float(value) for key, value in last.items()
            if key.endswith('/top1') and key.count('/') == 1 and math.isfinite(value)}  # fmt: skip
