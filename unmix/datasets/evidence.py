"""What of files is compared to notice that they are others."""

import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

_PART = 2**15


def file_evidence(path: str | bytes | Path) -> bytes:
    """Return the size of a file, and its first and last 32 KiB: enough to notice that it was replaced."""
    with open(path, 'rb') as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(_PART)
        file.seek(max(size - _PART, len(head)))
        return size.to_bytes(8, 'little') + head + file.read()


def evidence(data: bytes) -> bytes:
    """Return :func:`file_evidence` of a file with these bytes."""
    return len(data).to_bytes(8, 'little') + data[:_PART] + data[max(len(data) - _PART, min(len(data), _PART)) :]


def digest(what: Any, *arrays: np.ndarray) -> bytes:
    """Return a digest of arrays, and of the text of anything else."""
    found = sha256(repr(what).encode())
    for array in arrays:
        found.update(f'{array.dtype} {array.shape}'.encode())
        found.update(array.tobytes())
    return found.digest()
