"""Files wherever MMEngine's file backends find them: ``backend_args``, as in the other toolboxes of OpenMMLab.

``dict(backend='lmdb', db_path='train.lmdb')`` has the arguments of a class of :mod:`mmengine.fileio`, or of one that
``mmengine.fileio.register_backend`` has registered. Without ``backend`` the address says which it is (``http://``,
``s3://``). Files of this machine, ``dict(backend='local')``, are read as without ``backend_args``.

A backend is made in each process, when it reads for the first time: a data set takes no connection or open file along
to its workers.
"""

import inspect
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import Any
from urllib.parse import quote

import numpy as np
from mmengine.fileio import BaseStorageBackend, HTTPBackend, LocalBackend
from mmengine.fileio.backends import backends, prefix_to_backends

from unmix.datasets.archive import ARCHIVES, INSIDE, PACKED
from unmix.datasets.decode import EXHAUSTED, BrokenImage
from unmix.datasets.evidence import digest, evidence
from unmix.utils.names import shown, text

Client = tuple[BaseStorageBackend, AbstractContextManager[Any]]
_clients: dict[str, Client] = {}  # one for all data sets with the same arguments: LMDB opens a file once in a process
if hasattr(os, 'register_at_fork'):
    os.register_at_fork(before=_clients.clear)  # what is open must not be used by two processes
THREADS = 8  # that ask for sizes
INSTALL = {'lmdb': " Install it: pip install 'unmix[lmdb]'."}


class Unavailable(ValueError):
    """A file that a backend does not give; the message is the reason."""


class Storage:
    """A backend of MMEngine, by its arguments.

    Args:
        args: Arguments of the backend, and its name as ``backend``; without that, ``place`` says it.
        place: Address of the data.
        key: Key of the config, for messages.

    Raises:
        ImportError: If the package of the backend is not installed.
        ValueError: If there is no such backend, or it has other arguments.
    """

    def __init__(self, args: dict[str, Any], place: str, key: str) -> None:
        self.args = {name: value for name, value in args.items() if name != 'backend'}
        prefix = place.partition('://')[0].rpartition(':')[2] if '://' in place else ''
        name, known = args.get('backend', prefix), backends if 'backend' in args else prefix_to_backends
        if name not in known:
            what = f'{key}.backend is {name!r}' if 'backend' in args else f'{place} begins with {name}://'
            raise ValueError(
                f'{key}: {what}; expected one of {", ".join(filter(None, known))}, or one that '
                f'mmengine.fileio.register_backend has registered.'
            )
        self.kind: type[BaseStorageBackend] = known[name]  # itself, so that a new process imports its module
        self.name, self.key = str(args.get('backend', name or 'local')), key
        try:
            inspect.signature(self.kind).bind(**self.args)
            self._client()
        except ImportError as error:
            raise ImportError(
                f'{key}: the backend {self.name!r} cannot be used here ({error}).{INSTALL.get(self.name, "")}'
            ) from error
        except Exception as error:
            raise ValueError(
                f'{key}: the backend {self.name!r} does not take {self.args} ({error}). '
                f'Its arguments are {inspect.signature(self.kind)}.'
            ) from error

    def _client(self) -> Client:
        """Return the backend of this process, and what a thread holds while it reads."""
        arguments = f'{self.kind.__module__}.{self.kind.__qualname__} {json.dumps(self.args, default=repr)}'
        found = _clients.get(arguments)
        if found is None:
            guard: AbstractContextManager[Any] = nullcontext() if self.kind is HTTPBackend else Lock()
            found = _clients.setdefault(arguments, (self.kind(**self.args), guard))
        return found

    def get(self, address: bytes) -> bytes:
        """Return the bytes of a file.

        Raises:
            Unavailable: If the backend does not give them.
            OSError: If the process has no memory or file left.
        """
        try:
            client, guard = self._client()
            with guard:
                value: Any = client.get(text(address))
        except Exception as error:  # of many types
            if getattr(getattr(error, 'reason', error), 'errno', None) in EXHAUSTED:
                raise
            raise Unavailable(' '.join(str(error).split()) or type(error).__name__) from error
        if value is None:
            raise Unavailable('it has no such key')
        return bytes(value)

    def address(self, root: bytes, name: bytes) -> bytes:
        """Return the address of a file below ``root``, which makes names parts of an address of the web."""
        if root and issubclass(self.kind, HTTPBackend):
            name = quote(name).encode()
        return os.path.join(root, name)

    @property
    def lists(self) -> bool:
        """Whether the backend can list files."""
        return hasattr(self.kind, 'list_dir_or_file')

    def names(self, root: bytes, folders: bool = False) -> list[bytes]:
        """Return the names of the files at any depth below ``root``, or of its sub-folders, in order.

        Raises:
            ValueError: If the backend cannot list them.
        """
        if not self.lists:
            raise ValueError(
                f'dataset.data_root: the backend {self.name!r} cannot list what lies in {shown(root)}. Set '
                'dataset.map_file of an ImageFolder to a file with the name of an image, a tab and its label in each '
                'line; with dataset.labelled=False the name is enough.'
            )
        try:
            client, guard = self._client()
            with guard:
                found: Sequence[str] = sorted(
                    client.list_dir_or_file(text(root), list_dir=folders, list_file=not folders, recursive=not folders)
                )
        except Exception as error:  # of many types
            raise ValueError(
                f'dataset.data_root: the backend {self.name!r} cannot list {shown(root)} ({error}). Is the address '
                'right, and the server there?'
            ) from error
        return [name.encode(errors='surrogateescape') for name in found]


class StoredFiles:
    """Image files that a backend gives.

    Args:
        storage: The backend.
        root: Address that the names are below; b'' if they are addresses, or keys, themselves.
        paths: (N,) bytes, names.

    Attributes:
        kind: (N,) zeros: all are files, as those of :class:`~unmix.datasets.archive.Archive` are.
    """

    def __init__(self, storage: Storage, root: bytes, paths: np.ndarray) -> None:
        self.storage, self.root, self.paths = storage, root, paths
        self.kind = np.zeros(len(paths), np.uint8)

    def select(self, rows: Sequence[int]) -> 'StoredFiles':
        """Return some of the files."""
        return StoredFiles(self.storage, self.root, self.paths[np.asarray(rows, dtype=np.int64)])

    def place(self, number: int) -> bytes:
        """Return the address of a file."""
        return self.storage.address(self.root, self.paths[number])

    def read(self, number: int) -> bytes:
        """Return the bytes of a file.

        Raises:
            BrokenImage: If the backend does not give them.
            OSError: If the process has no memory or file left.
        """
        try:
            return self.storage.get(self.place(number))
        except Unavailable as error:
            raise BrokenImage(
                f'The backend {self.storage.name!r} does not give the image {shown(self.place(number))} ({error}). '
                'Put it there, or take it out of the list; if all are missing, see dataset.backend_args and '
                'dataset.data_root, which is put before each name.'
            ) from error

    def evidence(self, number: int) -> bytes:
        """Return :func:`unmix.datasets.evidence.evidence` of a file."""
        return evidence(self.read(number))

    def source(self) -> bytes:
        """Return a digest of the addresses; a backend does not tell when a file was changed."""
        return digest((self.storage.kind, self.storage.args, self.root), self.paths)

    def sizes(self) -> np.ndarray:
        """Return the bytes of each file, (N,) int64, all of which are read for it; 0 where one cannot be."""

        def size(number: int) -> int:
            try:
                return len(self.read(number))
            except BrokenImage:
                return 0

        with ThreadPoolExecutor(THREADS) as pool:
            return np.fromiter(pool.map(size, range(len(self.paths))), np.int64, len(self.paths))


class LocalCopies:
    """Files of a backend in a temporary folder of this machine, for what reads paths only: OpenCV, torchvision.

    The process that makes the folder deletes it, with this object. ``TMPDIR`` says where it is.

    Args:
        storage: The backend.
        root: Address that the names are below.
        names: Names of the files.
        key: Key of the config, for messages.

    Attributes:
        folder: Path of the folder, which holds each file under its name.
        absent: Why, of each file that the backend does not give.

    Raises:
        ValueError: If there is no room for them.
    """

    def __init__(
        self, storage: Storage, root: bytes, names: Sequence[bytes], key: str = 'dataset.backend_args'
    ) -> None:
        self.folder = os.fsencode(tempfile.mkdtemp(prefix='unmix-'))
        self.absent: dict[bytes, str] = {}
        weakref.finalize(self, _delete, self.folder, os.getpid())

        def copy(name: bytes) -> None:
            place = os.path.normpath(os.path.join(self.folder, name))
            try:
                if not place.startswith(os.path.join(self.folder, b'')):
                    raise Unavailable('the name leads out of the folder')
                data = storage.get(storage.address(root, name))
            except Unavailable as error:
                self.absent[name] = str(error)
                return
            os.makedirs(os.path.dirname(place), exist_ok=True)
            with open(place, 'wb') as file:
                file.write(data)

        try:
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(copy, names))
        except OSError as error:
            raise ValueError(
                f'{key}: the files of {shown(root)} cannot be copied to {shown(self.folder)} ({error.strerror}). They '
                'have to be local files: let the variable TMPDIR of the environment name a folder with more room, or '
                'copy the files by hand and leave the key out.'
            ) from error


def _delete(folder: bytes, process: int) -> None:
    if os.getpid() == process:  # not one that was forked from it
        shutil.rmtree(folder, ignore_errors=True)


def open_storage(args: dict[str, Any] | None, place: bytes, key: str = 'dataset.backend_args') -> Storage | None:
    """Return the backend for an address; None if that is a path of this machine.

    Args:
        args: ``backend_args`` of a config. None: what the address says.
        place: The address, or path.
        key: Key of the config, for messages.

    Raises:
        ImportError: As for :class:`Storage`.
        ValueError: Also if ``args`` is no dict, or the place is an archive.
    """
    if args is None and b'://' not in place:
        return None
    if args is not None and not isinstance(args, dict):
        raise ValueError(f"{key} is {args!r}; expected a dict such as dict(backend='local').")
    storage = Storage(args or {}, text(place), key)
    if storage.kind is LocalBackend:
        return None
    if place.lower().endswith((*ARCHIVES, *PACKED)) or INSIDE.match(place):
        raise ValueError(
            f'{key}: {shown(place)} is an archive, which is read at positions; the backend {storage.name!r} gives '
            'whole files only. Fetch the archive, or unpack it there.'
        )
    return storage
