"""A file from a server: resumed where it was cut, whole and right under its name or not there."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from mmengine.logging import print_log
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from unmix.utils.digest import content_key, file_sha256
from unmix.version import __version__

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

TIMEOUT = 30.0  # seconds without an answer
WAITS = (0.5, 2.0, 5.0)  # seconds before the second, third and fourth attempt
BLOCK = 2**18


def fetch(url: str, target: Path, sha256: str) -> None:
    """Download a file and put it to its place once its digest is right.

    What has come lies beside ``target`` in a hidden part file of this address and digest, which one process at a time
    writes; the others wait for it and take its file.

    Raises:
        ConnectionError: If the file cannot be reached, or the connection breaks in each attempt; the part is kept.
        OSError: If it cannot be written; the part is kept.
        ValueError: If the digest is another one; nothing is kept.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _part_file(target, content_key([url, sha256])) as (part, file):
            if target.is_file() and file_sha256(target) == sha256:  # another process has brought it
                _discard(part)
                return
            print_log(f'Downloading {url} to {target}', logger='current')
            resumed = os.path.getsize(part) > 0
            _fill(file, url)
            if resumed and file_sha256(part) != sha256:  # the beginning may be of an earlier file of this name
                file.truncate(0)
                _fill(file, url)
            digest = file_sha256(part)
            if digest != sha256:
                _discard(part)
                raise ValueError(
                    f'{url} is refused: its SHA-256 is {digest}, expected {sha256}. The file was changed or damaged on '
                    'the way; nothing of it is kept. Try again, or another UNMIX_MIRROR.'
                )
            os.fsync(file.fileno())
            if fcntl is None:
                file.close()  # Windows renames no open file
            os.replace(part, target)
    except ConnectionError:
        raise
    except OSError as error:
        raise not_written(target, error) from error


def not_written(target: Path, error: OSError) -> OSError:
    """Return the error to raise where a file cannot be written; it says what to do."""
    free = 0.0
    with suppress(OSError):
        free = shutil.disk_usage(target.parent).free / 2**20
    return OSError(
        error.errno,
        f'{target} could not be written: {error.strerror or error}; {free:.1f} MiB are free there. Make room, or name '
        'another folder: UNMIX_HOME, or --directory',
    )


@contextmanager
def _part_file(target: Path, key: str) -> Iterator[tuple[Path, BinaryIO]]:
    """Open the part file, locked; where there are no locks, one of this process only, which does not stay."""
    part = target.with_name(f'.{target.name}.{key}.part')
    while fcntl is not None:
        with open(part, 'a+b') as file:
            try:
                _lock(file, target)
            except OSError:
                part.unlink(missing_ok=True)
                break
            if _is_at(file, part):  # who had the lock before may have removed or renamed it
                yield part, file
                return
    part = target.with_name(f'.{target.name}.{os.getpid()}.part')
    try:
        with open(part, 'w+b') as file:
            yield part, file
    finally:
        part.unlink(missing_ok=True)


def _lock(file: BinaryIO, target: Path) -> None:
    """Wait for the lock of an open file; it ends with the process that has it, however that ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print_log(f'Another process downloads {target}; waiting for it', logger='current')
        fcntl.flock(file, fcntl.LOCK_EX)


def _discard(part: Path) -> None:
    """Remove an open part file; Windows cannot, where it goes once it is closed."""
    if fcntl is not None:
        part.unlink()


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _fill(file: BinaryIO, url: str) -> None:
    """Append what is missing, with a few attempts.

    Raises:
        ConnectionError: If none reaches the end.
    """
    for wait in (*WAITS, None):
        try:
            missing = _append(file, url)
            if not missing:
                return
            reason = f'the connection ended {missing} bytes too early'
        except HTTPError as error:
            reason = f'the server answers {error.code} {error.reason}'
            if error.code == 416:  # no such range: the part is not one of this file
                file.truncate(0)
            elif error.code < 500 and error.code not in (408, 429):
                break
        except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(getattr(error, 'reason', None) or error) or type(error).__name__
        if wait is not None:
            time.sleep(wait)
    have = file.seek(0, os.SEEK_END) / 2**20
    raise ConnectionError(
        f'{url} could not be downloaded: {reason}. {f"The first {have:.1f} MiB are kept; call" if have else "Call"} '
        'again, or set UNMIX_MIRROR to another address or to a folder that has the file.'
    )


def _append(file: BinaryIO, url: str) -> int:
    """Append what the server sends, from the end of the file on; return how many bytes are missing."""
    have = file.seek(0, os.SEEK_END)
    headers = {'User-Agent': f'unmix/{__version__}', 'Accept-Encoding': 'identity'}
    if have:
        headers['Range'] = f'bytes={have}-'
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
        if have and (response.status != 206 or not _starts_at(response.headers.get('Content-Range', ''), have)):
            file.truncate(0)  # the server sends the whole file
            have = 0
        length = response.headers.get('Content-Length')
        total = None if length is None else have + int(length)
        with _progress() as progress:
            task = progress.add_task(os.path.basename(url), total=total, completed=have)
            while block := response.read1(BLOCK):  # what has come, so that a killed process keeps it
                file.write(block)
                have += len(block)
                progress.update(task, completed=have)
        file.flush()
    return 0 if total is None else total - have


def _starts_at(content_range: str, start: int) -> bool:
    return content_range.removeprefix('bytes ').startswith(f'{start}-')


def _progress() -> Progress:
    columns = (TextColumn('{task.description}'), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
