"""Fetching data where there is a network."""

import os
import socket
from collections.abc import Callable
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
