"""One training at a time in a work directory."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mmengine.dist import is_main_process

from unmix.utils.dist import agreed
from unmix.utils.run_files import LOCK, OWN

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def sole_use(work_dir: str | Path) -> Iterator[None]:
    """Keep other trainings out of a directory, where they would replace and remove each other's checkpoints.

    The system gives the lock back when the process ends, however that happens, also over NFS. File systems without
    locks are used without. All ranks must enter it; rank 0 holds the lock.

    Raises:
        ValueError: If a process is at work there; names it.
    """
    with ExitStack() as stack:
        with agreed():
            if is_main_process() and fcntl is not None:
                stack.enter_context(_locked(Path(work_dir, LOCK)))
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, 'a+', encoding='utf-8') as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            user = file.read().strip() or 'another process'
            raise ValueError(
                f'The work dir {path.parent} is in use by {user}, which trains there. Give another one by --work-dir, '
                'or end that process first.'
            ) from error
        except OSError:  # no locks here
            pass
        else:
            file.truncate(0)
            file.write(f'process {os.getpid()} on {socket.gethostname()}')
            file.flush()
        OWN.add(path.parent.resolve())
        try:
            yield
        finally:
            OWN.discard(path.parent.resolve())
