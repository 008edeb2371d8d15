"""Fetching data where there is a network."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.dist import barrier

TIMEOUT = 20  # seconds


def fetch_if_missing(present: Callable[[], bool], fetch: Callable[[], Any], download: bool = True) -> str:
    """Fetch data that are not present, on one process of each machine while the others wait.

    Returns:
        Why the data are not there, as the end of a message; '' if they are, or if another process knows.
    """
    reason = ''
    if int(os.environ.get('LOCAL_RANK', 0)) == 0 and not present():
        reason = _attempt(fetch) if download else 'Nothing was downloaded, since dataset.download is False.'
    barrier()
    return reason


def read_torchvision(reader: Any, data_root: str | Path, download: bool, **split: Any) -> Any:
    """Read a data set of torchvision that lists its files with their MD5 sums, and download what is missing.

    Args:
        reader: torchvision's class.
        data_root: Folder that holds the class's ``base_folder``.
        download: Whether to download.
        **split: The class's arguments that choose the split.

    Raises:
        FileNotFoundError: If there are no data.
        ValueError: If they are damaged.
    """
    root = Path(data_root).expanduser()
    folder = root / reader.base_folder
    files = [folder / file for file, _ in (*reader.train_list, *reader.test_list)]

    def present() -> bool:
        return all(file.is_file() for file in files)

    reason = fetch_if_missing(present, lambda: reader(root, download=True), download)
    if not present():
        raise FileNotFoundError(
            f'{folder} does not hold {", ".join(file.name for file in files)}. {reason} Unpack {reader.filename} from '
            f'{reader.url} into {root}, or set dataset.data_root (--cfg-options data_root=DIR) to the folder that '
            'holds it unpacked.'
        )
    try:
        return reader(root, **split)
    except RuntimeError as error:  # torchvision compares the MD5 sums
        raise ValueError(f'The files in {folder} are damaged. Delete them and start again.') from error


def _attempt(fetch: Callable[[], Any]) -> str:
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torchvision sets none, and would wait for ever behind a firewall
    try:
        fetch()
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        return f'The download failed: {" ".join(str(error).split()).rstrip(".")}.'  # in one line
    finally:
        socket.setdefaulttimeout(timeout)
    return ''
