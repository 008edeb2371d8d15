"""Safe checkpoint loading: every scheme of MMEngine unpickles with ``weights_only=True`` or is refused.

MMEngine 0.10.7 cannot read its own checkpoints that way, onedl-mmengine falls back to executing the pickle, and both
execute what comes over http. One loader with a list of allowed types replaces them all. A file with a seal
(:mod:`unmix.checkpoint.files`) is compared with it first. :func:`trust_checkpoints` lifts the list for this process.
"""

import logging
import os
import os.path as osp
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import barrier, get_rank
from mmengine.logging import HistoryBuffer, print_log

from unmix.checkpoint.files import verify
from unmix.utils.download import fetch

_HISTORY_METHODS = ('min', 'max', 'current', 'mean')
_REFUSED = re.compile(
    r'(?:GLOBAL|unsupported GLOBAL) (\S+) (?:was not an allowed|whose module)|(getattr\(.*?\)) is not'
    r'|(?:weights_only=True.* )(legacy \.tar format|TorchScript archives)'
)

_trust = False


def trust_checkpoints() -> None:
    """Execute what the list does not allow, for the rest of this process (``--trust-checkpoint``); names each file."""
    global _trust
    _trust = True


def _history_method(obj: Any, name: str) -> Any:
    """Stand in for ``builtins.getattr`` while unpickling: HistoryBuffer pickles its statistics as ``getattr`` calls."""
    if obj is HistoryBuffer and name in _HISTORY_METHODS:
        return getattr(obj, name)
    raise pickle.UnpicklingError(f'getattr({getattr(obj, "__name__", type(obj).__name__)}, {name!r}) is not allowed')


def allowed_globals() -> list[Any]:
    """What a checkpoint may name besides tensors and plain containers: HistoryBuffer and numeric numpy arrays.

    numpy's rebuild functions are listed under their numpy 1 and numpy 2 names, so that files travel between the two.
    """
    # numpy 1.26 has a hollow np._core: take the functions from an array, not from a module path.
    reconstruct, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    allowed: list[Any] = [HistoryBuffer, np.ndarray, np.dtype, (_history_method, 'builtins.getattr')]
    for module in ('numpy._core.multiarray', 'numpy.core.multiarray'):
        allowed += [(reconstruct, f'{module}._reconstruct'), (scalar, f'{module}.scalar')]
    numeric = '?' + np.typecodes['AllInteger'] + np.typecodes['Float']
    return allowed + sorted({type(np.dtype(code)) for code in numeric}, key=lambda dtype: dtype.__name__)


def _load(path: str | Path, source: str, map_location: Any) -> Any:
    """Compare a file with its seal and load it with the allowed types; messages call it ``source``."""
    verify(path, source)
    try:
        with torch.serialization.safe_globals(allowed_globals()):
            return _without_code(torch.load(path, map_location=map_location, weights_only=True))
    except (OSError, MemoryError):
        raise
    except Exception as error:
        refused = _REFUSED.search(str(error))
        if refused is None and not isinstance(error, pickle.UnpicklingError):
            if isinstance(error, RuntimeError) and 'PytorchStreamReader' not in str(error):
                raise  # what torch says about devices is clear enough
            raise _unreadable(source, error) from error
        if _trust:
            print_log(
                f'checkpoint {source!r} cannot be loaded as weights only. Since --trust-checkpoint is given, it is '
                'unpickled without limits, so it can execute any code',
                logger='current',
                level=logging.WARNING,
            )
            return torch.load(path, map_location=map_location, weights_only=False)
        if refused is None:
            raise _unreadable(source, error) from error
        what = next(filter(None, refused.groups()))
        raise ValueError(
            f'checkpoint {source!r} is refused: it holds {what!r}, which is neither weights nor the log of a run, and '
            'unpickling it could execute code. If you trust its origin, convert it or re-save it with weights only '
            "where it was made: torch.save({'state_dict': model.state_dict()}, path). tools/train.py and tools/test.py "
            'load it all the same by --trust-checkpoint'
        ) from error


def _without_code(checkpoint: Any) -> Any:
    """Drop the text that MMEngine's ``resume`` would execute: it looks for MMCV's ``gpu_ids`` in ``meta['config']``."""
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


def _unreadable(source: str, error: Exception) -> ValueError:
    reason = str(error).strip().splitlines()[-1:] or ['the file ends too early']
    return ValueError(
        f'checkpoint {source!r} cannot be read: expected a file written by torch.save, got one that is cut off, '
        f'damaged or of another kind ({reason[0]}). Copy or download it again'
    )


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Load a checkpoint file without executing what it pickles.

    Raises:
        FileNotFoundError: ``filename`` is no file.
        ValueError: The file holds more than weights and logs, is no checkpoint, or is damaged.
    """
    path = osp.expanduser(filename)
    if not osp.isfile(path):
        what = 'is a directory' if osp.isdir(path) else 'does not exist'
        raise FileNotFoundError(f'checkpoint {filename!r} {what}; give the path of a file that torch.save wrote')
    return _load(path, filename, map_location)


def load_from_http(filename: str, map_location: Any = None, model_dir: str | None = None) -> Any:
    """Download a checkpoint (:func:`unmix.utils.download.fetch`) and load it as :func:`load_from_local` does.

    It is kept in ``model_dir``, or in the cache. The first process of each machine downloads, the others then find the
    file. A file that cannot be loaded is not kept.

    Raises:
        ConnectionError: The file cannot be reached.
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
        barrier()  # also after an error: the others must not wait for ever
    return checkpoint if first else load()


def load_from_refused_scheme(filename: str, map_location: Any = None, **kwargs: Any) -> Any:
    """Refuse a scheme whose loader unpickles without ``weights_only``.

    Raises:
        ValueError: Always.
    """
    scheme = filename.partition('://')[0]
    raise ValueError(
        f'checkpoint {filename!r}: {scheme}:// is refused, since MMEngine would execute what the file pickles. '
        'Download the file and give its path, or give its http(s):// address'
    )
