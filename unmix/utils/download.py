"""Downloads from http(s) addresses: a file gets its name only after it was checked."""

import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pooch
import torch
from mmengine.logging import print_log
from pooch import file_hash

from unmix.utils.files import free_mib
from unmix.version import __version__

HOME = 'UNMIX_HOME'
TIMEOUT = 30.0  # seconds without a byte from the server
WAITS = (0.5, 2.0, 5.0)  # seconds before the second, third and fourth attempt
_HEADERS = {'User-Agent': f'unmix/{__version__}', 'Accept-Encoding': 'identity'}


def cache_directory() -> Path:
    """Return the folder of downloads: UNMIX_HOME, or torch.hub's folder of checkpoints."""
    home = os.environ.get(HOME)
    return Path(home).expanduser() if home else Path(torch.hub.get_dir()) / 'checkpoints'


def fetch(url: str, directory: str | Path | None = None, name: str | None = None, sha256: str | None = None) -> Path:
    """Return the file of an http(s) address; download it if it is not there.

    A temporary file is compared with the length that the server states and with ``sha256``, then renamed. Several
    processes may fetch the same file; each has its own temporary file. A server that sends nothing for
    :data:`TIMEOUT` seconds is an error. After a broken connection or an error of the server (5xx), the download is
    tried again after each of :data:`WAITS`.

    Args:
        url: The address.
        directory: Folder of the file. None: :func:`cache_directory`.
        name: Name of the file. None: a name that is unique to the whole address.
        sha256: Digest of the file, 64 hexadecimal digits, or the first 8 or more. An existing file with another digest
            is replaced. None: the digits in the name of the address, as in ``resnet50-0676ba61.pth``, if it has some;
            else the digest is unknown, and an existing file is not checked.

    Raises:
        ConnectionError: If the address cannot be reached, or the connection breaks in each attempt.
        OSError: If the file cannot be written.
        ValueError: If the digest differs; the file is removed.
    """
    from requests import RequestException  # imported here because that takes a tenth of a second

    pooch.get_logger().setLevel('WARNING')
    folder = cache_directory() if directory is None else Path(directory).expanduser()
    name = pooch.utils.unique_file_name(url) if name is None else name
    digits = _digest_in_name(url) if sha256 is None else sha256
    if (folder / name).is_file() and digits and not file_hash(folder / name).startswith(digits):
        (folder / name).unlink()

    def download(url: str, temporary: str, _: Any) -> None:
        print_log(f'Downloading {url} to {folder / name}', logger='current')
        os.unlink(temporary)  # made by pooch, with permissions for its owner only
        _download(url, temporary)
        digest = file_hash(temporary) if digits else ''
        if digits and not digest.startswith(digits):
            raise ValueError(
                f'{url} is refused: its SHA-256 is {digest}, expected {digits}{"..." * (len(digits) < 64)}. The file '
                'was changed or damaged in transit, and is removed. Try again, or set another UNMIX_MIRROR.'
            )

    for wait in (*WAITS, None):
        try:
            return Path(pooch.retrieve(url, None, fname=name, path=folder, downloader=download))
        except (RequestException, ConnectionError) as error:
            problem, may_pass = _problem(error)
            if wait is None or not may_pass:
                raise ConnectionError(
                    f'{url} could not be downloaded: {problem}. Try again, or download it by other means and give its '
                    'path; for a model of the zoo set UNMIX_MIRROR to another address or to a folder that has the file.'
                ) from error
        except OSError as error:
            raise not_written(folder / name, error) from error
        time.sleep(wait)
    raise AssertionError('unreachable: the last attempt returns or raises')


def _digest_in_name(url: str) -> str:
    """Return the first digits of a SHA-256 that the name of a file ends with, by torch.hub's convention, or ''."""
    found = re.search(r'-([0-9a-f]{8,64})\.\w+$', urlsplit(url).path)
    return '' if found is None or re.fullmatch(r'(19|20)\d{6}', found[1]) else found[1]  # a date


def not_written(target: Path, error: OSError) -> OSError:
    """Return the error for a file that cannot be written, with advice."""
    return OSError(
        error.errno,
        f'{target} could not be written: {error.strerror or error}; {free_mib(target.parent):.1f} MiB are free there. '
        'Make room, or name another folder: UNMIX_HOME, or --directory',
    )


def _download(url: str, path: str) -> None:
    """Download to a file, with a progress bar on a terminal, and flush it to the disk.

    Raises:
        ConnectionError: If the file is shorter than the server states.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn('{task.description}'), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(os.path.basename(url), total=None)
        bar: Any = SimpleNamespace(  # the interface of tqdm, for pooch, which sets the total
            total=0,
            update=lambda size: progress.update(task, advance=size, total=bar.total or None),
            reset=lambda: progress.reset(task),
            close=lambda: None,
        )
        pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16, timeout=TIMEOUT, headers=_HEADERS)(url, path, None)
    with open(path, 'r+b') as file:
        size = file.seek(0, os.SEEK_END)
        os.fsync(file.fileno())
    if size < bar.total:
        raise ConnectionError(f'the connection ended {bar.total - size} bytes too early')


def _problem(error: BaseException) -> tuple[str, bool]:
    """Return what went wrong, in a few words, and whether another attempt may help."""
    response = getattr(error, 'response', None)
    if response is not None:
        status = response.status_code
        return f'the server answers {status} {response.reason}', status >= 500 or status in (408, 429)
    while error.__context__ is not None:  # the first error of the chain is the cause
        error = error.__context__
    if isinstance(error, TimeoutError):
        return f'no answer within {TIMEOUT:g} s', False
    return ' '.join(str(error).split()) or type(error).__name__, True
