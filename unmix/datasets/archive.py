"""Image files inside of a zip or of tars, and in a folder: read by number, from any process and thread.

Nothing is unpacked. Members of a zip are stored or deflated; a tar is plain. An archive whose directory is not that of
honest data is refused: names that lead out of it, names that are there twice, links, members over one another, and
members that become far larger than the archive. The data of members are not compared with checksums, where they are
stored; those of a file in a folder are not either.
"""

import copy
import glob
import itertools
import os
import re
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.datasets.archive_directory import DEFLATED, FOLDER, HEADER, TAR, read_directory
from unmix.datasets.decode import EXHAUSTED, BrokenImage, read_file
from unmix.datasets.evidence import digest, evidence, file_evidence
from unmix.utils.names import byte_array, shown

ARCHIVES = (b'.zip', b'.tar')
INSIDE = re.compile(rb'^(.*\.(?:zip|tar))@/*(.*?)/*$', re.DOTALL | re.IGNORECASE)  # train.zip@/folder
BRACES = re.compile(rb'\{(\d+)\.\.(\d+)\}')
PACKED = (
    *(b'.7z', b'.rar', b'.tar.bz2', b'.tar.gz', b'.tar.lz4', b'.tar.xz', b'.tar.zst'),
    *(b'.tbz', b'.tbz2', b'.tgz', b'.txz', b'.tzst'),
)
MAGIC = {b'\x1f\x8b': 'gzip', b'BZh': 'bzip2', b'\xfd7zXZ': 'xz', b'\x28\xb5\x2f\xfd': 'zstd', b'7z\xbc\xaf': '7z',
         b'Rar!': 'rar'}  # fmt: skip
SEVERAL = b'*?['
OPEN = 256  # archives that stay open
_NAME = 256  # bytes of a name that are read with the local header


class FolderFiles:
    """Image files in a folder.

    Args:
        root: The folder.
        paths: (N,) bytes, paths below it.
    """

    def __init__(self, root: bytes, paths: np.ndarray) -> None:
        self.root, self.paths = root, paths

    def place(self, number: int) -> bytes:
        """Return the path of a file."""
        return os.path.join(self.root, self.paths[number])

    def read(self, number: int) -> bytes:
        """Return the bytes of a file.

        Raises:
            BrokenImage: If it cannot be read.
            OSError: If the process has no memory or file left.
        """
        return read_file(self.place(number))

    def evidence(self, number: int) -> bytes:
        """Return :func:`unmix.datasets.evidence.file_evidence` of a file."""
        return file_evidence(self.place(number))

    def sizes(self) -> np.ndarray:
        """Return the bytes of each file, (N,) int64; 0 where it cannot be asked."""
        found = np.zeros(len(self.paths), dtype=np.int64)
        for number in range(len(found)):
            with suppress(OSError):
                found[number] = os.stat(self.place(number)).st_size
        return found

    def source(self) -> bytes:
        """Return a digest of the paths, and of when the files were changed."""
        changed = np.zeros((len(self.paths), 2), dtype=np.int64)
        for number in range(len(changed)):
            with suppress(OSError):
                state = os.stat(self.place(number))
                changed[number] = state.st_size, state.st_mtime_ns
        return digest(os.path.abspath(self.root), self.paths, changed)


class Archive:
    """The members of a zip, a tar, or several of them in order.

    Files are opened by each process for itself, and read at positions that no other reader moves.

    Args:
        files: Paths of the archives.

    Attributes:
        paths: (N,) bytes, names of the members.
        kind: (N,) uint8: STORED, DEFLATED and TAR are files; LINK, OTHER (devices, sparse files) and FOLDER.
        label: (N,) bytes, the label that a shard of ``webdataset`` has beside an image: ``KEY.cls``, or ``label`` or
            ``cls`` in ``KEY.json``; b'' without.

    Raises:
        FileNotFoundError: If an archive does not exist.
        ValueError: If one is damaged, of another form, or not that of honest data.
    """

    def __init__(self, files: Sequence[bytes]) -> None:
        self.files = [os.path.abspath(file) for file in files]
        parts = [read_directory(file) for file in self.files]
        self.stamps = [stamp for stamp, _ in parts]
        self.file = np.repeat(np.arange(len(parts)), [len(part['names']) for _, part in parts])
        self.paths, self.kind, self.label = (
            np.concatenate([part[name] for _, part in parts]) for name in ('names', 'kind', 'label')
        )
        spans = [np.stack([part[name] for name in ('start', 'packed', 'size', 'kind')], 1) for _, part in parts]
        self.spans = np.concatenate(spans).astype(np.int64)  # (N, 4): one look-up an image
        self.inside = b''
        self._data = np.zeros(len(self.paths), dtype=np.int64)  # where data begin, as far as they have been read
        self._open: dict[int, int] = {}  # descriptors
        self._refuse_doubles()

    def _refuse_doubles(self) -> None:
        files = np.flatnonzero(self.kind != FOLDER)
        ordered = files[np.argsort(self.paths[files], kind='stable')]
        double = np.flatnonzero(self.paths[ordered[1:]] == self.paths[ordered[:-1]])
        if len(double):
            one, other = ordered[double[0]], ordered[double[0] + 1]
            places = {shown(self.files[self.file[number]]) for number in (one, other)}
            also = f' (and {len(double) - 1} other names)' if len(double) > 1 else ''
            raise ValueError(
                f'The name {shown(self.paths[one])}{also} is there twice in '
                f'{" and ".join(sorted(places))}, so that readers may disagree about what it means. Pack the images '
                'again, each once.'
            )

    def select(self, numbers: Sequence[int] | np.ndarray) -> 'Archive':
        """Return the archive with these members only."""
        chosen = copy.copy(self)  # without open files: __getstate__
        rows = np.asarray(numbers, dtype=np.int64)
        for name in ('file', 'paths', 'spans', 'kind', 'label', '_data'):
            setattr(chosen, name, getattr(self, name)[rows])
        return chosen

    def labels(self) -> Tensor | None:
        """Return the labels (N,) that members have beside them; None if there are none.

        Raises:
            ValueError: If only some have a label, or one is no integer from 0.
        """
        given = self.label != b''
        if not given.any():
            return None
        if not given.all():
            raise ValueError(
                f'dataset.data_root: {shown(self.place(int(np.flatnonzero(~given)[0])))} has no .cls or .json with a '
                f'label beside it, as {int(given.sum())} of {len(given)} images do. Label all of them, or set '
                'dataset.labelled=False.'
            )
        for number, label in enumerate(self.label.tolist()):
            if not re.fullmatch(rb'[0-9]{1,9}', label):
                raise ValueError(
                    f'dataset.data_root: {shown(self.place(number))} has the label {shown(label)}; expected the number '
                    'of a class, from 0. Write the shards again, or set dataset.labelled=False.'
                )
        return torch.from_numpy(self.label.astype(np.int64))

    def place(self, number: int) -> bytes:
        """Return the archive and the name of a member: ``train.zip@/n01440764/1.JPEG``."""
        return self.files[self.file[number]] + b'@/' + self.inside + bytes(self.paths[number])

    def read(self, number: int) -> bytes:
        """Return the bytes of a member.

        Raises:
            BrokenImage: If the archive has changed or is gone, or the member is damaged.
            OSError: If the process has no memory or file left.
        """
        start, packed, size, kind = self.spans[number].tolist()
        known = int(self._data[number])
        if known:
            start = known
        elif kind != TAR:
            header = self._at(number, start, HEADER + _NAME)
            length, extra = (int.from_bytes(header[place : place + 2], 'little') for place in (26, 28))
            if length > _NAME:
                header = self._at(number, start, HEADER + length)
            named = header[HEADER : HEADER + length].endswith(os.path.basename(self.paths[number]))
            if header[:4] != b'PK\x03\x04' or not named:
                raise self._damaged(number, 'it is not where the directory says')
            start += HEADER + length + extra
            self._data[number] = start
        data = self._at(number, start, packed)
        if len(data) != packed:
            raise self._damaged(number, 'the archive ends before it')
        if kind != DEFLATED:
            return data
        try:
            unpacked = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        except zlib.error as error:
            raise self._damaged(number, str(error)) from error
        if len(unpacked) != size:
            raise self._damaged(number, f'it has {len(unpacked)} bytes or more, not {size} as the directory says')
        return unpacked

    def _at(self, number: int, start: int, size: int) -> bytes:
        """Return up to ``size`` bytes of the archive of a member, from a position on."""
        which = int(self.file[number])
        try:
            descriptor = self._open.get(which)
            if descriptor is not None:
                return os.pread(descriptor, size, start)
            with open(self.files[which], 'rb', buffering=0) as file:
                state = os.fstat(file.fileno())
                if (state.st_size, state.st_mtime_ns) == self.stamps[which]:
                    if hasattr(os, 'pread') and len(self.files) <= OPEN:  # Windows has none
                        own = os.dup(file.fileno())
                        if self._open.setdefault(which, own) != own:  # another thread was faster
                            os.close(own)
                    file.seek(start)
                    return file.read(size)
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            raise self._damaged(number, str(error.strerror)) from error
        raise self._damaged(number, 'the archive has changed since the run began')

    def _damaged(self, number: int, reason: str) -> BrokenImage:
        return BrokenImage(
            f'The image {shown(self.place(number))} cannot be read: {reason}. Restore the archive and resume the run.'
        )

    def evidence(self, number: int) -> bytes:
        """Return :func:`unmix.datasets.evidence.evidence` of a member: that of the file that was packed."""
        return evidence(self.read(number))

    def sizes(self) -> np.ndarray:
        """Return the bytes of each member, (N,) int64, unpacked."""
        return self.spans[:, 2]

    def source(self) -> bytes:
        """Return a digest of the archives, when they were changed, and the members."""
        return digest((self.files, self.stamps), self.file, self.paths, self.spans)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | dict(_open={}, _data=np.zeros_like(self._data))

    def __del__(self) -> None:
        for descriptor in vars(self).get('_open', {}).values():
            with suppress(OSError):
                os.close(descriptor)


def archives_of(data_root: bytes) -> tuple[list[bytes], bytes] | None:
    """Return the archives that a ``data_root`` names, and the folder inside of them; None if it names none.

    It is a zip or a tar, one with a folder inside (``train.zip@/images``), or several as ``webdataset`` writes them
    (``shard-{000000..000146}.tar``, ``shard-*.tar``).

    Raises:
        FileNotFoundError: If one of several does not exist.
        ValueError: If a file is neither a zip nor a plain tar.
    """
    if os.path.isdir(data_root):
        return None
    inside = b''
    match = None if os.path.isfile(data_root) else INSIDE.match(data_root)
    if match is not None:
        data_root, inside = match.groups()
    files = [data_root] if os.path.isfile(data_root) else _expanded(data_root)
    if not files:
        return None
    missing = [file for file in files if not os.path.isfile(file)]
    if missing:
        raise FileNotFoundError(
            f'{shown(data_root)} stands for {len(files)} files, of which {len(missing)} do not '
            f'exist, the first is {shown(missing[0])}. Correct the numbers, or fetch the file.'
        )
    for file in files:
        _refuse_other_forms(file)
    return files, inside


def _expanded(pattern: bytes) -> list[bytes]:
    """Return the files that ``{000..146}`` and ``*`` stand for."""
    parts = BRACES.split(pattern)
    if len(parts) > 1:
        numbers = [
            [str(number).zfill(len(first)).encode() for number in range(int(first), int(last) + 1)]
            for first, last in zip(parts[1::3], parts[2::3], strict=True)
        ]
        return [
            b''.join(itertools.chain.from_iterable(itertools.zip_longest(parts[::3], chosen, fillvalue=b'')))
            for chosen in itertools.product(*numbers)
        ]
    return sorted(glob.glob(pattern)) if any(character in pattern for character in SEVERAL) else []


def _refuse_other_forms(file: bytes) -> None:
    with open(file, 'rb') as opened:
        start = opened.read(8)
    form = next((form for magic, form in MAGIC.items() if start.startswith(magic)), None)
    if form is not None or file.lower().endswith(PACKED):
        raise ValueError(
            f'{shown(file)} is packed as a whole ({form or "by its name"}), so that an image can be '
            'read only after all that come before it. Unpack it, and train from the folder, or pack that as '
            'a plain tar (tar -cf) or a zip (tools/dataset_converters/zip_imagefolder.py).'
        )


def within(archive: Archive, inside: bytes) -> Archive:
    """Return the members below a folder of an archive, named from there."""
    if not inside:
        return archive
    above = inside + b'/'
    rows = [number for number, name in enumerate(archive.paths.tolist()) if name.startswith(above)]
    chosen = archive.select(rows)
    chosen.inside = above
    chosen.paths = byte_array([name.removeprefix(above) for name in chosen.paths.tolist()])
    return chosen


def open_archive(data_root: bytes, key: str = 'dataset.data_root') -> Archive | None:
    """Return the archive that a ``data_root`` names; None if it names none."""
    try:
        named = archives_of(data_root)
        return None if named is None else within(Archive(named[0]), named[1])
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f'{key}: {error}') from error
