"""The zip archive that ``torch.save`` writes: its records are found and verified before torch reads them.

torch.save stores each record uncompressed, under one folder, once. An archive of another form is refused, since its
readers may disagree about its records, or since a record may become larger than the file.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_LOCAL, _END, _LOCATOR, _END64 = b'PK\x03\x04', b'PK\x05\x06', b'PK\x06\x07', b'PK\x06\x06'
_END_SIZE, _LOCATOR_SIZE, _END64_SIZE, _LOCAL_SIZE = 22, 20, 56, 30
_LONGEST_COMMENT = 2**16
_BLOCK = 2**20


@dataclass(frozen=True)
class Record:
    """One record of an archive.

    Attributes:
        start: Position of its first byte in the file.
        size: Number of its bytes.
        crc: Its CRC-32.
    """

    start: int
    size: int
    crc: int


class DamagedError(ValueError):
    """The archive is cut, or its bytes are not those that were written."""


class FormError(ValueError):
    """The archive is whole, but not of the form that ``torch.save`` writes."""


def is_archive(file: IO[bytes]) -> bool:
    """Return whether torch reads a file as a zip archive; the position is the start of the file afterwards."""
    file.seek(0)
    start = file.read(len(_LOCAL))
    file.seek(0)
    return start == _LOCAL


def records_of(file: IO[bytes]) -> dict[str, Record]:
    """Return the records of an archive by their names below its one folder, such as ``data.pkl``; read no content.

    Raises:
        DamagedError: If the directory of the archive is missing, or does not fit the file.
        FormError: If a record is compressed, encrypted, there twice, outside of the folder, or overlaps another one.
    """
    directory = _directory(file)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, struct.error, EOFError) as error:
        raise DamagedError(f'its directory cannot be read ({error})') from error
    records: dict[str, Record] = {}
    extents: list[tuple[int, int, str]] = []
    folders, lower = set(), set()
    for entry in entries:
        folder, _, name = entry.orig_filename.partition('/')
        folders.add(folder)
        lower.add(entry.orig_filename.lower())
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise FormError(
                f'its record {entry.filename} is compressed: {entry.compress_size} bytes there become '
                f'{entry.file_size}. torch.save compresses nothing. If you trust its origin, unpack it and pack it '
                'again without compression'
            )
        if entry.flag_bits & 0x2041:
            raise FormError(f'its record {entry.filename} is encrypted')
        start = _content_start(file, entry)
        extents.append((entry.header_offset, start + entry.file_size, entry.filename))
        records[name] = Record(start, entry.file_size, entry.CRC)
    if len(folders) != 1 or len(lower) != len(entries) or '' in records:
        raise FormError('its records are not in one folder, or one is there twice')
    extents.sort()
    for (_, end, name), (following, *_) in zip(extents, [*extents[1:], (directory, directory, '')], strict=True):
        if end > following:
            raise FormError(f'its record {name} reaches into the next one')
    return records


def _content_start(file: IO[bytes], entry: zipfile.ZipInfo) -> int:
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_SIZE)
    if len(header) < _LOCAL_SIZE or header[:4] != _LOCAL:
        raise DamagedError(f'its record {entry.filename} is not where its directory says')
    length, extra = struct.unpack('<HH', header[26:])
    if file.read(length) != entry.orig_filename.encode('utf-8' if entry.flag_bits & 0x800 else 'cp437'):
        raise DamagedError(f'its record {entry.filename} has another name in its directory')
    return entry.header_offset + _LOCAL_SIZE + int(length) + int(extra)


def _directory(file: IO[bytes]) -> int:
    """Return where the directory begins; check that all readers find the same one."""
    size = file.seek(0, os.SEEK_END)
    tail_start = max(size - _LONGEST_COMMENT - _END_SIZE, 0)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise DamagedError('its end is missing or changed')
    (comment,) = struct.unpack('<H', tail[at + 20 : at + 22])
    if at + _END_SIZE + comment != len(tail):
        raise DamagedError('its end is missing or changed')
    length, start = struct.unpack('<II', tail[at + 12 : at + 20])
    end = tail_start + at
    locator = tail[max(at - _LOCATOR_SIZE, 0) : at]
    if locator[:4] == _LOCATOR:
        end -= _LOCATOR_SIZE + _END64_SIZE
        file.seek(max(end, 0))
        record = file.read(_END64_SIZE)
        if end < 0 or struct.unpack('<Q', locator[8:16])[0] != end or record[:4] != _END64:
            raise DamagedError('its end is missing or changed')
        length, start = struct.unpack('<QQ', record[40:56])
    if start + length != end:
        raise DamagedError('its directory is not where its end says')
    return int(start)


def verify_records(file: IO[bytes], records: Mapping[str, Record]) -> None:
    """Compare each record with its CRC-32, which torch does not do.

    An archive whose checksums are all 0 was written without them (``torch.serialization.set_crc32_options(False)``).

    Raises:
        DamagedError: If a record differs.
    """
    if not any(record.crc for record in records.values()):
        return
    for name, record in records.items():
        file.seek(record.start)
        crc, left = 0, record.size
        while left and (block := file.read(min(left, _BLOCK))):
            crc, left = zlib.crc32(block, crc), left - len(block)
        if left or crc != record.crc:
            raise DamagedError(f'the bytes of its record {name} are not those that were written')


def read_record(path: str | Path, record: Record) -> bytes:
    """Return the content of a record."""
    with open(path, 'rb') as file:
        file.seek(record.start)
        return file.read(record.size)
