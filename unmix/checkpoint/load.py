"""Safe loading: every scheme of MMEngine loads with ``weights_only=True``.

MMEngine 0.10.7 cannot read its own checkpoints with ``weights_only=True``; onedl-mmengine falls back to executing the
pickle; both execute pickles from http. One loader with a list of allowed types replaces all of them. It first compares
a file with its seal (:mod:`unmix.checkpoint.files`), then checks all that its pickle would do
(:mod:`unmix.checkpoint.contents`), since torch compares neither checksums nor what numpy and torch are called with.
:func:`trust_checkpoints` allows all types in this process.
"""

import logging
import os
import os.path as osp
import pickle
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import HistoryBuffer, print_log

from unmix.checkpoint.allowed import RefusedError
from unmix.checkpoint.archive import DamagedError, FormError
from unmix.checkpoint.contents import read_contents
from unmix.checkpoint.files import unreadable, verify
from unmix.checkpoint.of_run import checkpoint_of
from unmix.utils.download import fetch

_HISTORY_METHODS = ('min', 'max', 'current', 'mean')
_READERS = ('PytorchStreamReader', 'inline_container')  # of torch, in its errors about archives

_trust = False
_name: ContextVar[str | None] = ContextVar('name', default=None)


def trust_checkpoints() -> None:
    """Allow all types for the rest of this process (``--trust-checkpoint``); a warning names each such file."""
    global _trust
    _trust = True


def _history_method(obj: Any, name: str) -> Any:
    """Replace ``builtins.getattr`` while unpickling: HistoryBuffer pickles its statistics as ``getattr`` calls."""
    if obj is HistoryBuffer and name in _HISTORY_METHODS:
        return getattr(obj, name)
    raise pickle.UnpicklingError(f'getattr({getattr(obj, "__name__", type(obj).__name__)}, {name!r}) is not allowed')


def allowed_globals() -> list[Any]:
    """Return the types that torch must allow besides its own, for what :func:`read_contents` has let pass.

    They are HistoryBuffer, argparse's Namespace (settings of foreign runs), and numeric numpy arrays.

    numpy's rebuild functions have their names of numpy 1 and of numpy 2, so that each reads files of the other.
    """
    # np._core of numpy 1.26 lacks these functions, so they are taken from an array.
    reconstruct, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    allowed: list[Any] = [HistoryBuffer, Namespace, np.ndarray, np.dtype]
    allowed += [(_history_method, 'builtins.getattr'), (bytes, 'builtins.bytes')]
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):
        allowed += [(reconstruct, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    numeric = '?' + np.typecodes['AllInteger'] + np.typecodes['Float']
    return allowed + sorted({type(np.dtype(code)) for code in numeric}, key=lambda dtype: dtype.__name__)


def _load(path: str | Path, source: str, map_location: Any) -> Any:
    """Compare a file with its seal, check its content, and load it; ``source`` is its name in messages."""
    try:
        verify(path, source)
        read_contents(path)
    except DamagedError as error:
        raise unreadable(source, error) from error
    except FormError as error:
        if not _trust:
            raise _refused(source, error) from error
        print_log(
            f'checkpoint {source!r} cannot be loaded as weights only. Because of --trust-checkpoint it is '
            'unpickled without limits, and can execute any code',
            logger='current',
            level=logging.WARNING,
        )
        return torch.load(path, map_location=map_location, weights_only=False)
    try:
        with torch.serialization.safe_globals(allowed_globals()):
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except (
        pickle.UnpicklingError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
        EOFError,
        RuntimeError,
    ) as error:
        if isinstance(error, RuntimeError) and not any(name in str(error) for name in _READERS):
            raise  # such as an error about devices, which torch explains
        raise unreadable(source, ' '.join(str(error).split())[:200]) from error
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)  # MMEngine's resume executes it, in search of MMCV's gpu_ids
    return checkpoint


def _refused(source: str, error: FormError) -> ValueError:
    if isinstance(error, RefusedError):
        return ValueError(
            f'checkpoint {source!r} is refused: it holds {error.what!r}, which is neither weights nor the log of a '
            'run, and unpickling it could execute code. If you trust its origin, convert it or re-save it with weights '
            "only where it was made: torch.save({'state_dict': model.state_dict()}, path). tools/train.py and "
            'tools/test.py load it with --trust-checkpoint'
        )
    return ValueError(
        f'checkpoint {source!r} is refused: {error}. torch.save writes no such file. Take it from its origin again, '
        "or re-save it there: torch.save({'state_dict': model.state_dict()}, path)"
    )


def map_from_local(path: str | Path) -> Any:
    """Return the content of a checkpoint on the CPU, whose tensors are read from the file when they are used.

    The seal is not compared.

    Raises:
        ValueError: The file holds more than weights and logs, or is no checkpoint.
    """
    read_contents(path)
    with torch.serialization.safe_globals(allowed_globals()):
        return torch.load(path, map_location='cpu', mmap=True, weights_only=True)


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Load a checkpoint file, or the newest one of a run's work dir, without executing what it pickles.

    Raises:
        FileNotFoundError: There is no such file, or no checkpoint in the directory.
        ValueError: The file holds more than weights and logs, is no checkpoint, or is damaged.
    """
    path = osp.expanduser(filename)
    if osp.isdir(path):
        path = filename = str(checkpoint_of(path))
    if not osp.isfile(path):
        raise FileNotFoundError(
            f'checkpoint {filename!r} does not exist; give the path of a file that torch.save wrote, or of the work '
            'dir of a run'
        )
    return _load(path, filename, map_location)


def load_from_http(filename: str, map_location: Any = None, model_dir: str | None = None) -> Any:
    """Download a checkpoint (:func:`unmix.utils.download.fetch`) and load it as :func:`load_from_local` does.

    The file is kept in ``model_dir``, or in the cache, unless it cannot be loaded. The first process of each machine
    downloads it, then the others read it.

    Raises:
        ConnectionError: The address cannot be reached.
        ValueError: The file holds more than weights and logs, is no checkpoint, or is damaged.
    """

    def load() -> Any:
        path = fetch(filename, model_dir)
        try:
            return _load(path, filename, map_location)
        except ValueError:
            path.unlink(missing_ok=True)
            raise

    first = int(os.environ.get('LOCAL_RANK', get_rank())) == 0
    try:
        checkpoint = load() if first else None
    finally:
        barrier()  # also after an error, since the other processes wait here
    return checkpoint if first else load()


def load_for_scheme(file: Any, map_location: Any = None, **_: Any) -> Any:
    """Load what a loader of MMEngine has found or downloaded; it takes the place of ``torch.load`` there.

    Args:
        file: A path, or an open file.
        map_location: As for ``torch.load``.

    Raises:
        FileNotFoundError, ValueError: As :func:`load_from_local`; the message has the name in :func:`named`.
    """
    if not hasattr(file, 'read'):
        path = os.fspath(file)
        return _load(path, _name.get() or path, map_location) if osp.isfile(path) else load_from_local(path)
    with tempfile.NamedTemporaryFile(suffix='.pth') as copy:
        shutil.copyfileobj(file, copy)
        copy.flush()
        return _load(copy.name, _name.get() or copy.name, map_location)


@contextmanager
def named(filename: str) -> Iterator[None]:
    """Name the checkpoint that :func:`load_for_scheme` reads in messages."""
    token = _name.set(filename)
    try:
        yield
    finally:
        _name.reset(token)
