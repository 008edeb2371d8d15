"""Checkpoint files: written whole or not at all, and sealed with a digest.

The seal is the SHA-256 of the file, in the comment of the zip archive that ``torch.save`` writes. So it goes where the
file goes, cannot be another one's, and every reader of such archives passes over it. A file without a seal,
from elsewhere, is loaded all the same.
"""

import hashlib
import io
import os
import re
import struct
from pathlib import Path

from unmix.utils.files import atomic_path, free_mib

_MARK = b'unmix sha256 '
_END = 22  # bytes of a zip archive's last record; its last two are the length of the comment that follows
_COMMENT = len(_MARK) + 64
_SEALED = re.compile(rb'PK\x05\x06.{18}' + _MARK + rb'([0-9a-f]{64})', re.DOTALL)
_TORN = re.compile(rb'PK\x05\x06.{16}' + re.escape(struct.pack('<H', _COMMENT)), re.DOTALL)


def write_checkpoint(buffer: io.BytesIO, path: str) -> None:
    """Seal what ``torch.save`` wrote to ``buffer``, and write it to ``path``, which is replaced in one step.

    Raises:
        OSError: If the disk is full or the file cannot be written; what stood at ``path`` is still there.
    """
    buffer.seek(-2, os.SEEK_END)
    buffer.write(struct.pack('<H', _COMMENT) + _MARK)
    with buffer.getbuffer() as data:
        digest = hashlib.sha256(data).hexdigest()
    buffer.write(digest.encode())
    try:
        with atomic_path(path) as temporary, open(temporary, 'wb') as file, buffer.getbuffer() as data:
            file.write(data)
            file.flush()
    except OSError as error:
        needed, free = buffer.tell() / 2**20, free_mib(Path(path).parent)
        raise OSError(
            error.errno,
            f'checkpoint {path} could not be written: {error.strerror}. It needs {needed:.1f} MiB, {free:.1f} MiB are '
            'free. The checkpoints before it are still there. Make room, raise the quota or the limit of file sizes, '
            'or keep fewer by default_hooks.checkpoint.max_keep_ckpts',
        ) from error


def verify(path: str | Path, source: str | None = None) -> bool:
    """Compare a checkpoint with its seal.

    Args:
        path: The file.
        source: What messages call it, such as the address that it came from; None: its path.

    Returns:
        True if it is whole, False if it has no seal.

    Raises:
        ValueError: If it is damaged.
    """
    with open(path, 'rb') as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _END - _COMMENT, 0))
        tail = file.read()
        sealed = _SEALED.fullmatch(tail)
        if sealed is None:
            if _TORN.search(tail):
                raise _damaged(source or path, 'its end is missing or changed')
            return False
        digest = hashlib.sha256()
        file.seek(0)
        left = size - 64
        while left and (block := file.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
    if digest.hexdigest() != sealed[1].decode():
        raise _damaged(source or path, 'its bytes are not those that were written')
    return True


def _damaged(source: str | Path, reason: str) -> ValueError:
    return ValueError(
        f'checkpoint {str(source)!r} is damaged: {reason}. Use the one before it, or copy or download it again'
    )
