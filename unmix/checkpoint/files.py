"""Checkpoint files: atomic writing, and a seal that shows damage.

The seal is the SHA-256 of the file. It stands in the comment of the zip archive that ``torch.save`` writes, so that it
is copied with the file, and readers of such archives ignore it. In a file without a seal, from another code, the
checksum of each record of the archive is compared instead. Files of torch before 1.6 have neither.
"""

import hashlib
import io
import os
import re
import struct
from pathlib import Path
from typing import IO

from unmix.checkpoint.archive import DamagedError, is_archive, records_of, verify_records
from unmix.utils.files import atomic_path, free_mib

_MARK = b'unmix sha256 '
_END = 22  # bytes of the last record of a zip archive; its last two bytes are the length of the comment
_COMMENT = len(_MARK) + 64
_SEALED = re.compile(rb'PK\x05\x06.{18}' + _MARK + rb'([0-9a-f]{64})', re.DOTALL)
_TORN = re.compile(rb'PK\x05\x06.{16}' + re.escape(struct.pack('<H', _COMMENT)), re.DOTALL)


def write_checkpoint(buffer: io.BytesIO, path: str) -> None:
    """Seal the archive of ``torch.save`` in ``buffer``, and write it to ``path``, which is replaced atomically.

    Raises:
        OSError: If the disk is full or the file cannot be written. An older file at ``path`` is unchanged.
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
    """Compare a checkpoint with its seal, or an archive without a seal with the checksums of its records.

    Args:
        path: The file.
        source: Name of the file in messages, such as its address. None: its path.

    Returns:
        True if the seal fits the file, False if there is no seal.

    Raises:
        FormError: If it is an archive without a seal that ``torch.save`` has not written.
        ValueError: If the file is damaged.
    """
    with open(path, 'rb') as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _END - _COMMENT, 0))
        tail = file.read()
        sealed = _SEALED.fullmatch(tail)
        if sealed is None:
            if _TORN.search(tail):
                raise _damaged(source or path, 'its end is missing or changed')
            if is_archive(file):
                _verify_archive(file, source or path)
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


def _verify_archive(file: IO[bytes], source: str | Path) -> None:
    try:
        records = records_of(file)
    except DamagedError as error:
        raise unreadable(source, error) from error
    try:
        verify_records(file, records)
    except DamagedError as error:
        raise _damaged(source, str(error)) from error


def unreadable(source: str | Path, reason: object) -> ValueError:
    """Return the error for a file that is no whole checkpoint."""
    return ValueError(
        f'checkpoint {str(source)!r} cannot be read: expected a file written by torch.save, got one that is cut off, '
        f'damaged or of another kind ({reason}). Copy or download it again'
    )


def _damaged(source: str | Path, reason: str) -> ValueError:
    return ValueError(
        f'checkpoint {str(source)!r} is damaged: {reason}. Use the one before it, or copy or download it again'
    )
