"""Lists in files: names of images and of classes, numbers."""

import io
import os
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from unmix.datasets.storage import Unavailable, open_storage
from unmix.utils.names import path_bytes, shown

LISTS = Path(__file__).parent  # lists that come with the package
PREFIX = re.compile(rb'^(?:.*\.(?:zip|tar)@)?(?:\.?/)*', re.DOTALL)
COMMENT = re.compile(rb'\s#(?:\s|$)')
Found = TypeVar('Found')


def read_list(
    path: str | Path,
    key: str,
    root: bytes,
    find: Callable[[bytes], Found | None],
    backend_args: dict[str, Any] | None = None,
) -> dict[bytes, Found | None]:
    """Read the names in a file, one a line, or separated by null bytes (``find -print0``).

    A line is a name as it stands if ``find`` knows it, whatever its characters. If not, these are left out, one after
    the other, until it does: blanks around it, and a comment (``# ...`` as a line, `` # ...`` after a name). Paths
    below ``root`` may be absolute, begin with ``./`` or have backslashes. The file may begin with a byte order mark and
    have line ends of Windows.

    Args:
        path: The file, or the name of one that comes with the package.
        key: Key of the config, for messages.
        root: Folder that the names are relative to.
        find: Returns what a name stands for, None if nothing.
        backend_args: Where the file is if it is not on this machine: :class:`unmix.datasets.storage.Storage`.

    Returns:
        What each name stands for, None if nothing, in the order of the file; without comments.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If it has no names.
    """
    file, data = _content([path_bytes(path), os.path.join(path_bytes(LISTS), path_bytes(path))], key, backend_args)
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        data = data.decode('utf-16').encode()
    found: dict[bytes, Found | None] = {}
    for line in data.removeprefix(BOM_UTF8).split(b'\0' if b'\0' in data else b'\n'):
        readings = _readings(line, root)
        name = next((name for name in readings if find(name) is not None), None)
        if name is not None:
            found[name] = find(name)
        elif line.strip() and not line.strip().startswith(b'#'):
            found[readings[-1]] = None
    if not found:
        raise ValueError(f'{key}: {shown(file)} has no names. Write one in each line.')
    return found


def _content(candidates: list[bytes], key: str, backend_args: dict[str, Any] | None) -> tuple[bytes, bytes]:
    """Return a file and its content: the first that there is on this machine, or else what a backend gives."""
    file = next((candidate for candidate in candidates if os.path.isfile(candidate)), None)
    if file is not None:
        with open(file, 'rb') as opened:
            return file, opened.read()
    named = candidates[:1] if b'://' in candidates[0] else candidates
    absent = f'{key}: there is no file {" or ".join(map(shown, named))}'
    storage = open_storage(backend_args, candidates[0], f'{key.rpartition(".")[0]}.backend_args')
    if storage is None:
        raise FileNotFoundError(f'{absent}.')
    try:
        return candidates[0], storage.get(candidates[0])
    except Unavailable as error:
        raise FileNotFoundError(f'{absent} here, nor by the backend {storage.name!r} ({error}).') from error


def _readings(line: bytes, root: bytes) -> list[bytes]:
    """Return the names that a line may be, the most literal first, the likeliest last."""
    stripped = line.strip()
    texts = [line, line.removesuffix(b'\r'), stripped]
    texts += [stripped[: comment.start()].strip() for comment in reversed([*COMMENT.finditer(stripped)])]
    texts += [text.replace(b'\\', b'/') for text in texts if b'\\' in text]
    names = [os.path.normpath(text) for text in dict.fromkeys(texts) if text]
    if os.path.isabs(stripped):
        above = [os.path.join(folder(root), b'') for folder in (os.path.abspath, os.path.realpath)]
        names += [name.removeprefix(folder) for name in names for folder in above if name.startswith(folder)]
    return names


def read_map(
    path: str | Path, key: str, labelled: bool = True, backend_args: dict[str, Any] | None = None
) -> dict[bytes, int]:
    """Read a file with the name of an image, a tab and its label in each line, as the zipped ImageNet has it.

    A name may have the prefix of its archive (``train.zip@/``), ``./`` or ``/``. Labels are integers from 0.

    Args:
        path: The file.
        key: Key of the config, for messages.
        labelled: Whether labels are needed: without, they may be negative, and a line may be a name alone.
        backend_args: As for :func:`read_list`.

    Returns:
        The label of each name, in the order of the file.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If a line is of another form, a name is there twice, or there is none.
    """
    file, data = _content([path_bytes(path)], key, backend_args)
    lines = data.removeprefix(BOM_UTF8).split(b'\n')
    found: dict[bytes, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, tab, label = line.rpartition(b'\t')
        if not tab and not labelled:
            name, tab, label = line.removesuffix(b'\r'), b'\t', b'-1'
        where = f'{key}: line {number} of {shown(file)}'
        if not tab or not re.fullmatch(rb' *[+-]?[0-9]{1,9} *\r?', label):
            raise ValueError(f'{where} is {shown(line)}; expected NAME, a tab and a label, such as a/1.jpg<TAB>0.')
        if labelled and int(label) < 0:
            raise ValueError(
                f'{where} gives {shown(name)} the label {int(label)}; labels are the numbers of classes, from 0. '
                'Leave images without a label out, or train with dataset.labelled=False.'
            )
        name = PREFIX.sub(b'', name)
        if name in found:
            raise ValueError(f'{where} names {shown(name)} a second time. Name each image once.')
        found[name] = int(label)
    if not found:
        raise ValueError(f'{key}: {shown(file)} has no lines. Write NAME, a tab and a label in each.')
    return found


def read_numbers(
    values: Sequence[float] | np.ndarray | str | Path, key: str, backend_args: dict[str, Any] | None = None
) -> np.ndarray:
    """Return numbers (N,), N > 0, of a list or a file: ``.npy``, or text with a number in each line.

    Args:
        values: The list or file.
        key: Key of the config, for messages.
        backend_args: As for :func:`read_list`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If they are no list of numbers.
    """
    source = shown(values) if isinstance(values, str | Path) else type(values).__name__
    data = _content([path_bytes(values)], key, backend_args)[1] if isinstance(values, str | Path) else None
    try:
        if data is None:
            found = np.asarray(values)
        elif Path(str(values)).suffix == '.npy':
            found = np.load(io.BytesIO(data))
        else:
            found = np.loadtxt(io.BytesIO(data), ndmin=1)
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f'{key}: {source} holds no list of numbers ({error}).') from error
    if found.ndim != 1 or found.dtype.kind not in 'iuf' or len(found) == 0:
        raise ValueError(
            f'{key}: {source} holds values of type {found.dtype} and shape {found.shape}; expected a list of numbers.'
        )
    return found


def span(values: np.ndarray) -> str:
    """Return `` from LEAST to LARGEST`` for a message; nothing of no values."""
    return f' from {values.min():g} to {values.max():g}' if len(values) else ''
