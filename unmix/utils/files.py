"""Files that are whole or not there."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from unmix.utils.names import shown


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write to; the file takes its place only when all is on the disk.

    Whatever happens, a crash of the machine included, ``path`` is the old file or the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.stem}.{os.getpid()}{path.suffix}')
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def try_folder(folder: str | Path) -> None:
    """Make a folder if it is not there, and a file in it that is gone at once.

    Raises:
        OSError: If it cannot be written to.
    """
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def check_writable(option: str, path: str | Path) -> None:
    """Check that a file can be written, before anything is computed for it; its folder is made.

    Args:
        option: What named it, for the message.
        path: The file.

    Raises:
        ValueError: If it is a folder, or its folder cannot be written to.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, 'it is a folder')
        try_folder(path.parent)
    except OSError as error:
        raise ValueError(
            f'{option} is {shown(path)}, which cannot be written ({error.strerror}). Name a file in a folder that can.'
        ) from error


def leftovers(directory: str | Path, suffix: str) -> list[Path]:
    """Temporary files of :func:`atomic_path` that processes left in ``directory`` when they were killed."""
    name = re.compile(rf'\..+\.\d+{re.escape(suffix)}')
    own = f'.{os.getpid()}{suffix}'
    return [path for path in Path(directory).iterdir() if name.fullmatch(path.name) and not path.name.endswith(own)]


def free_mib(directory: str | Path) -> float:
    """Free room of the file system of a directory, in MiB; 0 if there is no such directory."""
    try:
        return shutil.disk_usage(directory).free / 2**20
    except OSError:
        return 0.0


def _flush(path: Path) -> None:
    """Bring a file, or a directory's names, from the system's memory to the disk."""
    if path.is_dir() and os.name == 'nt':  # Windows cannot open a directory
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some file systems (CIFS, FUSE) have no such call for directories
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)
