"""The directory of a zip or a tar: which members there are, and where. One that is not of honest data is refused.

Where no name in a zip has a slash, and in what a tool of Windows has written, backslashes are slashes.

The directory of a zip is at its end; a tar has none, so it is read once from end to end. What was found in a large
archive is kept in ``archives`` of the folder of downloads (``UNMIX_HOME``), until the archive changes.
"""

import json
import os
import re
import tarfile
import zipfile
from contextlib import suppress
from hashlib import sha256

import numpy as np

from unmix.utils.download import cache_directory
from unmix.utils.files import atomic_path
from unmix.utils.names import byte_array, shown, text

STORED, DEFLATED, TAR, LINK, OTHER, FOLDER = 0, 8, 16, 17, 18, 19  # the first two are zip's numbers
LARGEST_FACTOR, LARGEST_FREE = 100, 2**20  # a member of up to 1 MiB, or of 100 times its packed bytes
KEPT = 10_000  # members; the directory of a smaller archive is read each time
HEADER = 30  # bytes of a zip's local header
_TEXT = 2**16  # bytes of the longest label
_ARRAYS = ('names', 'start', 'packed', 'size', 'kind', 'label')
Member = tuple[bytes, int, int, int, int, bytes]  # _ARRAYS


def read_directory(file: bytes) -> tuple[tuple[int, int], dict[str, np.ndarray]]:
    """Return size and time of an archive, and the arrays of its members."""
    try:
        state = os.stat(file)
        key = [text(os.path.realpath(file)), state.st_size, state.st_mtime_ns, 3]
        kept = cache_directory() / 'archives' / f'{sha256(json.dumps(key).encode()).hexdigest()[:32]}.npz'
        with suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), np.load(kept) as arrays:
            return (state.st_size, state.st_mtime_ns), {name: arrays[name] for name in _ARRAYS}
        with open(file, 'rb') as opened:
            zipped = opened.read(2) == b'PK'
        members = _read_zip(file) if zipped else _read_tar(file)
    except OSError as error:
        raise ValueError(f'{shown(file)} cannot be read ({error.strerror or error}). Make it readable.') from error
    names, start, packed, size, kind, label = zip(*members, strict=True) if members else ((),) * 6
    found = dict(names=byte_array(names), label=byte_array(label), kind=np.array(kind, dtype=np.uint8))
    found |= {name: np.array(a, dtype=np.int64) for name, a in dict(start=start, packed=packed, size=size).items()}
    _check(file, found)
    if len(members) >= KEPT:
        with suppress(OSError), atomic_path(kept) as temporary:
            np.savez(temporary, **found)  # type: ignore[arg-type]
    return (state.st_size, state.st_mtime_ns), found


def _read_zip(file: bytes) -> list[Member]:
    try:
        with open(file, 'rb') as opened, zipfile.ZipFile(opened) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, EOFError) as error:
        raise ValueError(f'{shown(file)} is no whole zip ({error}). Fetch it again, or pack it again.') from error
    members: list[Member] = []
    slashes = any('/' in entry.orig_filename for entry in entries)
    for entry in entries:
        raw = entry.orig_filename.encode('utf-8' if entry.flag_bits & 0x800 else 'cp437', 'surrogateescape')
        windows = not slashes or entry.create_system == 0
        if windows and (raw.isascii() or entry.flag_bits & 0x800):  # in Shift-JIS it may be half of a letter
            raw = raw.replace(b'\\', b'/')
        name, kind = _safe(file, raw), entry.compress_type
        if raw.endswith(b'/'):
            kind = FOLDER
        elif (entry.external_attr >> 16) & 0xF000 == 0xA000:
            kind = LINK
        elif entry.flag_bits & 0x2041:
            raise ValueError(f'{shown(file)} is encrypted. Pack it again without a password.')
        elif kind not in (STORED, DEFLATED):
            raise ValueError(
                f'{shown(name)} in {shown(file)} is packed by method {kind}; expected a member that '
                'is stored or deflated. Pack it again by tools/dataset_converters/zip_imagefolder.py.'
            )
        members.append((name, entry.header_offset, entry.compress_size, entry.file_size, kind, b''))
    return members


def _read_tar(file: bytes) -> list[Member]:
    members: list[Member] = []
    labels: dict[bytes, bytes] = {}
    try:
        with open(file, 'rb') as opened, tarfile.open(None, 'r:', opened, encoding='utf-8') as archive:
            while (entry := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it keeps all for look-ups
                name = _safe(file, entry.name.encode('utf-8', 'surrogateescape'))
                kind = TAR if entry.isreg() and not entry.issparse() else OTHER
                kind = FOLDER if entry.isdir() else LINK if entry.issym() or entry.islnk() else kind
                members.append((name, entry.offset_data, entry.size, entry.size, kind, b''))
                key, ending = _key(name)
                if kind == TAR and ending in (b'cls', b'json') and entry.size <= _TEXT:
                    opened.seek(entry.offset_data)
                    label = _label(opened.read(entry.size), ending)
                    if label and (ending == b'cls' or key not in labels):
                        labels[key] = label
            opened.seek(archive.offset)  # tarfile takes a damaged header for the end
            if opened.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError('it has no end, or a damaged part' if members else 'it begins otherwise')
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f'{shown(file)} is no whole tar, and no zip ({error}). Expected a folder of images, a '
            'zip or a plain tar; if it is one, fetch it again.'
        ) from error
    return [(*member[:5], labels.get(_key(member[0])[0], b'')) for member in members] if labels else members


def _key(name: bytes) -> tuple[bytes, bytes]:
    """Return the key of a member and what it is of a sample, as ``webdataset`` reads names: ``a/1.left.jpg``."""
    folder, base = os.path.split(name)
    key, _, ending = base.partition(b'.')
    return os.path.join(folder, key), ending.lower()


def _label(data: bytes, ending: bytes) -> bytes:
    if ending == b'cls':
        return data.strip()[:32]
    with suppress(ValueError, RecursionError):
        found = json.loads(data)
        if isinstance(found, dict):
            value = found.get('cls', found.get('label'))
            return b'' if value is None else str(value).encode()[:32]
    return b''


def _safe(file: bytes, name: bytes) -> bytes:
    """Return the name of a member below the archive, without ``./``.

    Raises:
        ValueError: If it is absolute, or leads out of the archive.
    """
    steps = name.replace(b'\\', b'/').split(b'/')
    if b'..' in steps or b'\0' in name or not steps[0] or re.match(rb'[A-Za-z]:', name):
        raise ValueError(
            f'{shown(file)} has a member named {shown(name)}, which does not lie in the archive. '
            'It was made by mistake or to do harm. Pack the images again, with names below one folder.'
        )
    return b'/'.join(step for step in name.split(b'/') if step not in (b'', b'.'))


def _check(file: bytes, found: dict[str, np.ndarray]) -> None:
    """Refuse members that lie over one another or beyond the file, or become far larger than they are there.

    Raises:
        ValueError: If there is one.
    """
    names, start, packed, size, kind = (found[name] for name in _ARRAYS[:5])
    header = np.where(kind == TAR, 0, HEADER + np.char.str_len(names) if len(names) else 0)
    real = np.isin(kind, (STORED, DEFLATED, TAR))
    order = np.flatnonzero(real)[np.argsort(start[real], kind='stable')]
    ends = (start + header + packed)[order]
    next_start = np.append(start[order][1:], os.path.getsize(file))
    over = np.flatnonzero(ends > next_start)
    if len(over):
        raise ValueError(
            f'{shown(names[order[over[0]]])} reaches into the next member of {shown(file)}, or '
            'beyond its end. The archive is cut, or it was made to do harm. Fetch it again, or pack the images again.'
        )
    wrong = (kind == STORED) & (packed != size)
    large = (kind == DEFLATED) & (size > LARGEST_FREE) & (size > LARGEST_FACTOR * packed)
    for bad in np.flatnonzero(wrong | large)[:1]:
        raise ValueError(
            f'{shown(names[bad])} in {shown(file)} has {packed[bad]} bytes that are to become '
            f'{size[bad]}. Members of more than {LARGEST_FACTOR} times their packed bytes are refused. If you trust '
            'its origin, unpack it and pack it again without compression '
            '(tools/dataset_converters/zip_imagefolder.py).'
        )
