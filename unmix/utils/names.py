"""Names of files: the bytes that a file system has, as text and as a path, whatever the locale.

A name is any bytes. Its text is UTF-8; a byte that is not UTF-8 becomes a surrogate (``surrogateescape``).
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def path_bytes(path: str | bytes | Path) -> bytes:
    """Return the bytes of a path, ``~`` expanded."""
    name = os.path.expanduser(os.fspath(path))
    if isinstance(name, bytes):
        return name
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:  # a path from a UTF-8 file, in a locale without its characters
        return name.encode(errors='surrogateescape')


def text(name: bytes) -> str:
    """Return the text of a name; :func:`os.fsencode` gives its bytes back where the file system is UTF-8."""
    return name.decode(errors='surrogateescape')


def shown(name: str | bytes | Path) -> str:
    """Return a name for a message: in quotes and escaped if it has outer blanks or cannot be printed."""
    name = text(name) if isinstance(name, bytes) else os.fspath(name)
    here = name.encode(sys.getfilesystemencoding(), 'replace')  # of the locale, which may have ASCII only
    printable = name.isprintable() and here.decode(sys.getfilesystemencoding()) == name
    return name if printable and name == name.strip() else ascii(name)


def few(names: Sequence[str | bytes]) -> str:
    """Join the first four names for a message."""
    return ', '.join(map(shown, names[:4])) + (', ...' if len(names) > 4 else '')


def byte_array(names: Sequence[bytes]) -> np.ndarray:
    """Return (N,) bytes: processes share the memory of an array, not that of a list."""
    return np.array(names, dtype=np.bytes_)
