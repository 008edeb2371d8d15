"""Images in memory, one copy on a host for all ranks and data workers there."""

import os
import shutil
import socket
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.logging import print_log

from unmix.datasets.evidence import digest
from unmix.utils.dist import host_group
from unmix.utils.progress import progress

CACHES = ('none', 'full', 'part', 'decoded')
_THREADS = 8
_STRIDE = 256  # images between two looks at the progress bar
GROUPS = Path('/sys/fs/cgroup')


class HostCache:
    """Bytes of images in a file in memory (``/dev/shm``), which all ranks of a host and their workers read.

    It is filled at once: each rank of the host reads its share. The file has no name while it is filled and read, so
    the memory is free again when the last process has ended, however it ended. All ranks build a cache at the same
    place of the program.

    Args:
        sizes: (N,) bytes of each image.
        make: Returns the bytes of an image, ``sizes[number]`` of them; None: the image is left out.
        part: Of the R ranks, rank r puts the images r, r + R, ... there, and no other rank does. So a host has those of
            its own ranks only.
        what: Key of the config and its value, for messages.

    Raises:
        ValueError: If there is not enough memory, or ``make`` raises it; on all ranks.
    """

    living: ClassVar[weakref.WeakValueDictionary[bytes, 'HostCache']] = weakref.WeakValueDictionary()

    @classmethod
    def of(
        cls, source: Any, sizes: np.ndarray, make: Callable[[int], bytes | None], part: bool, what: str
    ) -> 'HostCache':
        """Return the cache of a source: that of another data set of this process while there is one, or a new one.

        Args:
            source: All that the bytes depend on; its ``repr`` is compared.
            sizes: As for the class.
            make: As for the class.
            part: As for the class.
            what: As for the class.
        """
        key = digest((source, part, get_rank(), get_world_size()), sizes)
        found = cls.living.get(key)
        if not all(_gather(found is not None)) or found is None:
            found = cls.living[key] = cls(sizes, make, part, what)
        return found

    def __init__(self, sizes: np.ndarray, make: Callable[[int], bytes | None], part: bool, what: str) -> None:
        self.sizes = sizes.astype(np.int64)
        self._descriptor = -1
        world, rank = get_world_size(), get_rank()
        folder = '/dev/shm' if os.path.isdir('/dev/shm') else tempfile.gettempdir()
        state = os.stat(folder)
        hosts = _gather((socket.gethostname(), state.st_dev, state.st_ino))
        peers = [peer for peer, host in enumerate(hosts) if host == hosts[rank]]
        share = np.arange(len(sizes)) % world
        order = np.argsort(share, kind='stable')  # those of a rank lie together: the others take no memory
        self.starts = np.empty(len(sizes), dtype=np.int64)
        ends = len(sizes) + np.cumsum(self.sizes[order])  # first a byte for each image that says whether it is there
        self.starts[order] = ends - self.sizes[order]
        kept = np.isin(share, peers) if part else np.ones(len(sizes), dtype=bool)
        name, error = '', None
        try:
            if rank == peers[0]:
                name = self._create(folder, int(self.sizes[kept].sum()) + len(sizes), what)
        except (ValueError, OSError) as refusal:
            error = _explained(refusal, what, folder)
        answers = _gather((name, error))
        _raise([error for _, error in answers])
        try:
            if rank != peers[0]:
                self._keep(os.open(answers[peers[0]][0], os.O_RDWR))
        except OSError as refusal:
            error = _explained(refusal, what, folder)
        errors = _gather(error)  # all have opened it
        if rank == peers[0]:
            os.unlink(name)
        _raise(errors)
        mine = np.flatnonzero(kept & (share == rank)) if part else np.flatnonzero(kept)[peers.index(rank) :: len(peers)]
        began = time.monotonic()
        try:
            self._fill(mine, make, what)
        except (ValueError, OSError) as refusal:
            error = _explained(refusal, what, folder)
        _raise(_gather(error))
        self._there = np.frombuffer(os.pread(self._descriptor, len(sizes), 0), dtype=bool)
        if rank == 0:
            print_log(
                f'{what}: {int(kept.sum())} images, {_shown(int(self.sizes[kept].sum()))} in the memory of this host, '
                f'read in {time.monotonic() - began:.1f} s.',
                logger='current',
            )

    def _create(self, folder: str, needed: int, what: str) -> str:
        """Create the file, and return its name.

        Raises:
            OSError: If the system does not allow it.
            ValueError: If there is not enough memory.
        """
        place, free = min(free_memory(folder).items(), key=lambda item: item[1])
        if needed > free:
            raise ValueError(
                f'{what}: the images have {_shown(needed)} ({needed} bytes), but only {_shown(free)} ({free} bytes) '
                f'are free {place}. {_advice(folder)}'
            )
        descriptor, name = tempfile.mkstemp(prefix='unmix-', dir=folder)
        self._keep(descriptor)
        try:
            os.truncate(descriptor, len(self.sizes) + int(self.sizes.sum()))
        except OSError:
            os.unlink(name)
            raise
        return name

    def _keep(self, descriptor: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, _close, descriptor)

    def _fill(self, images: np.ndarray, make: Callable[[int], bytes | None], what: str) -> None:
        """Write images, with a progress bar on the terminal of rank 0.

        Raises:
            OSError: If there is no room.
            ValueError: If ``make`` raises it.
        """

        def write(number: int) -> None:
            data = make(number)
            if data is not None:
                _write(self._descriptor, data, int(self.starts[number]))
                _write(self._descriptor, b'\1', number)

        with (
            ThreadPoolExecutor(_THREADS) as pool,
            progress(what, int(self.sizes[images].sum()), get_rank() == 0) as advance,
        ):
            for first, last in pairwise([*range(0, len(images), _STRIDE), len(images)]):
                list(pool.map(write, images[first:last].tolist()))
                advance(int(self.sizes[images[first:last]].sum()))

    def get(self, number: int) -> bytes | None:
        """Return the bytes of an image; None if it is not there."""
        if self._descriptor < 0 or not self._there[number]:
            return None
        return os.pread(self._descriptor, int(self.sizes[number]), int(self.starts[number]))

    def __getstate__(self) -> dict[str, Any]:
        """Give the file to a process that is started; a copy for anything else has no image."""
        state = dict(vars(self), _descriptor=None)
        if get_spawning_popen() is not None and self._descriptor >= 0:
            from multiprocessing.reduction import DupFd  # Windows has none

            state['_descriptor'] = DupFd(self._descriptor)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        given = state.pop('_descriptor')
        vars(self).update(state, _descriptor=-1)
        if given is not None:
            self._keep(given.detach())


def free_memory(folder: str) -> dict[str, int]:
    """Return the bytes that a file in ``folder`` may take, by what limits them, as the end of a sentence."""
    found = {f'in {folder}': shutil.disk_usage(folder).free}
    with suppress(OSError, StopIteration):
        lines = Path('/proc/meminfo').read_text(encoding='utf-8').splitlines()
        found['in the memory of this machine'] = 1024 * int(
            next(line.split()[1] for line in lines if line.startswith('MemAvailable:'))
        )
    with suppress(OSError):
        for line in Path('/proc/self/cgroup').read_text(encoding='utf-8').splitlines():
            _, controllers, path = line.split(':', 2)
            for limit in _limits(controllers, Path(path.strip('/'))):
                place = 'under the memory limit of this job or container'
                found[place] = min(limit, found.get(place, limit))
    return found


def _limits(controllers: str, path: Path) -> Iterator[int]:
    """Yield the bytes that are left in a control group and those above it; memory of files counts as left."""
    if controllers and 'memory' not in controllers.split(','):
        return
    top = GROUPS / ('memory' if controllers else '')
    names = ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file')
    limit, usage, files = names if controllers else ('memory.max', 'memory.current', 'inactive_file')
    for group in [top / path, *(top / above for above in path.parents)]:
        with suppress(OSError, ValueError, KeyError):  # 'max' is no number
            stat = dict(line.split() for line in (group / 'memory.stat').read_text(encoding='utf-8').splitlines())
            yield (
                int((group / limit).read_text(encoding='utf-8'))
                - int((group / usage).read_text(encoding='utf-8'))
                + int(stat[files])
            )


def _shown(size: int) -> str:
    return f'{size / 2**30:.1f} GiB' if size >= 2**30 else f'{size / 2**20:.1f} MiB'


def _advice(folder: str) -> str:
    return (
        "Set dataset.cache='none' (the system keeps files in the memory that is left, too), take fewer or smaller "
        "images, or more machines with cache='part'; in a container, raise its limits, such as --shm-size of docker "
        f'for {folder}.'
    )


def _explained(error: ValueError | OSError, what: str, folder: str) -> ValueError:
    if isinstance(error, ValueError):
        return error
    return ValueError(f'{what}: the images cannot be kept in {folder} ({error.strerror}). {_advice(folder)}')


def _gather(value: Any) -> list[Any]:
    """Return the values of all ranks."""
    return [value] if get_world_size() == 1 else all_gather_object(value, host_group())


def _raise(errors: list[ValueError | None]) -> None:
    """Raise the first error, on all ranks."""
    for error in errors:
        if error is not None:
            raise error


def _write(descriptor: int, data: bytes, start: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, start)
        view, start = view[written:], start + written


def _close(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)
