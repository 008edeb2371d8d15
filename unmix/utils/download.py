"""Downloads from http(s) addresses: a file is whole and right under its name, or it is not there."""

import os
import sys
import time
from pathlib import Path
from typing import Any

import pooch
import torch
from mmengine.logging import print_log

from unmix.utils.digest import file_sha256
from unmix.utils.files import free_mib
from unmix.version import __version__

HOME = 'UNMIX_HOME'
TIMEOUT = 30.0  # seconds without a byte from the server
WAITS = (0.5, 2.0, 5.0)  # seconds before the second, third and fourth attempt
_HEADERS = {'User-Agent': f'unmix/{__version__}', 'Accept-Encoding': 'identity'}


def cache_directory() -> Path:
    """Return where downloads are kept: UNMIX_HOME, or where torch.hub keeps its checkpoints."""
    home = os.environ.get(HOME)
    return Path(home).expanduser() if home else Path(torch.hub.get_dir()) / 'checkpoints'


def fetch(url: str, directory: str | Path | None = None, name: str | None = None, sha256: str | None = None) -> Path:
    """Return the file of an http(s) address, which is downloaded unless it is there.

    The file gets its name in one step, after it was compared with the length that the server states and with
    ``sha256``. Several processes may fetch it at a time; each downloads a file of its own. A server that sends nothing
    for :data:`TIMEOUT` seconds is an error; a connection that breaks, and an error of the server (5xx), are tried again
    after each of :data:`WAITS`.

    Args:
        url: The address.
        directory: Where the file goes; None: :func:`cache_directory`.
        name: Name of the file. None: one that is unique to the whole address, so that two addresses that end in the
            same name are two files.
        sha256: Digest of the file, 64 hexadecimal digits; one that is there with another digest is replaced. None: it
            is not known, and a file that is there is taken as it is.

    Raises:
        ConnectionError: If the file cannot be reached, or the connection breaks in each attempt.
        OSError: If the file cannot be written.
        ValueError: If the digest is another one; nothing is kept.
    """
    from requests import RequestException  # imported when it is used: it takes a tenth of a second

    pooch.get_logger().setLevel('WARNING')
    folder = cache_directory() if directory is None else Path(directory).expanduser()
    name = pooch.utils.unique_file_name(url) if name is None else name

    def download(url: str, temporary: str, _: Any) -> None:
        print_log(f'Downloading {url} to {folder / name}', logger='current')
        os.unlink(temporary)  # pooch has made it, readable by its owner only
        _download(url, temporary)
        digest = None if sha256 is None else file_sha256(temporary)
        if digest != sha256:
            raise ValueError(
                f'{url} is refused: its SHA-256 is {digest}, expected {sha256}. The file was changed or damaged on '
                'the way; nothing of it is kept. Try again, or another UNMIX_MIRROR.'
            )

    for wait in (*WAITS, None):
        try:
            known = None if sha256 is None else f'sha256:{sha256}'
            return Path(pooch.retrieve(url, known, fname=name, path=folder, downloader=download))
        except (RequestException, ConnectionError) as error:
            problem, may_pass = _problem(error)
            if wait is None or not may_pass:
                raise ConnectionError(
                    f'{url} could not be downloaded: {problem}. Call again, or download it by other means and give its '
                    'path; for a model of the zoo set UNMIX_MIRROR to another address or to a folder that has the file.'
                ) from error
        except OSError as error:
            raise not_written(folder / name, error) from error
        time.sleep(wait)
    raise AssertionError('the last attempt returns or raises')


def not_written(target: Path, error: OSError) -> OSError:
    """Return the error to raise where a file cannot be written; it says what to do."""
    return OSError(
        error.errno,
        f'{target} could not be written: {error.strerror or error}; {free_mib(target.parent):.1f} MiB are free there. '
        'Make room, or name another folder: UNMIX_HOME, or --directory',
    )


def _download(url: str, path: str) -> None:
    """Write what the server sends to a file and to the disk.

    Raises:
        ConnectionError: If it is less than the server has said.
    """
    with _Bar(url) as bar:
        pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16, timeout=TIMEOUT, headers=_HEADERS)(url, path, None)
    with open(path, 'r+b') as file:
        size = file.seek(0, os.SEEK_END)
        os.fsync(file.fileno())
    if size < bar.total:
        raise ConnectionError(f'the connection ended {bar.total - size} bytes too early')


def _problem(error: BaseException) -> tuple[str, bool]:
    """Return what went wrong, in a few words, and whether another attempt may help.

    ``requests`` says it in the answer that it got, or in the first of the errors that led to its own.
    """
    response = getattr(error, 'response', None)
    if response is not None:
        status = response.status_code
        return f'the server answers {status} {response.reason}', status >= 500 or status in (408, 429)
    while error.__context__ is not None:
        error = error.__context__
    if isinstance(error, TimeoutError):
        return f'no answer within {TIMEOUT:g} s', False
    return ' '.join(str(error).split()) or type(error).__name__, True


class _Bar:
    """What ``pooch`` reports its progress to; drawn if stderr is a terminal.

    Attributes:
        total: Length of the file in bytes, as the server says; 0 if it does not.
    """

    def __init__(self, url: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn('{task.description}'), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self.progress = Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty())
        self.task = self.progress.add_task(os.path.basename(url), total=None)
        self.total = 0

    def __enter__(self) -> '_Bar':
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()

    def update(self, size: int) -> None:
        """Add so many bytes."""
        self.progress.update(self.task, advance=size, total=self.total or None)

    def reset(self) -> None:
        """Go back to no bytes."""
        self.progress.reset(self.task)

    def close(self) -> None:
        """Do nothing: the context closes it."""
