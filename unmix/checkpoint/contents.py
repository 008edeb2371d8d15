"""The content of a checkpoint file, checked before torch reads it; each tensor is a :class:`TensorInfo`."""

import io
import os
import tarfile
from collections.abc import Callable, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, Any

from unmix.checkpoint.allowed import CHECKPOINTS, RefusedError, Storage, StorageType, require
from unmix.checkpoint.archive import DamagedError, Record, is_archive, records_of
from unmix.checkpoint.pickles import OF_TORCH, read_pickle

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of a file of torch before 1.6


def read_contents(path: str | Path) -> Any:
    """Return the content of a file of ``torch.save``: its tensors as :class:`TensorInfo`, no type of another library.

    Nothing is executed, and no more is allocated than the file has bytes. Sizes, strides and offsets of all tensors
    are compared with the bytes that the file has for them. Values of tensors are not read.

    Raises:
        DamagedError: If the file is cut, damaged or of another kind.
        FormError: If it holds something else than weights and the log of a run.
    """
    with open(path, 'rb') as file:
        if is_archive(file):
            return _read_archive(file)
        if tarfile.is_tarfile(path):
            raise RefusedError('legacy .tar format')
        if not os.fstat(file.fileno()).st_size:
            raise DamagedError('it is empty')
        if file.read(256).lstrip().startswith(b'<'):
            raise DamagedError('it is a web page: an error or a login, perhaps')
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            return _read_legacy(data)


def _read_archive(file: IO[bytes]) -> Any:
    records = records_of(file)
    if 'constants.pkl' in records:
        raise RefusedError('TorchScript archives')
    if 'data.pkl' not in records:
        raise DamagedError('it has no record data.pkl')
    file.seek(records['data.pkl'].start)
    data = io.BytesIO(file.read(records['data.pkl'].size))
    return read_pickle(data, CHECKPOINTS, OF_TORCH, _storage_in(records))


def _storage_in(records: Mapping[str, Record]) -> Callable[[Any], Storage]:
    found: dict[str, Storage] = {}

    def storage(identity: Any) -> Storage:
        own = _storage(identity, 5)
        record = records.get(f'data/{own.key}')
        if record is None or record.size != own.nbytes:
            size = 'no bytes' if record is None else f'{record.size} bytes'
            raise DamagedError(f'its storage {own.key} has {size} instead of {own.nbytes}')
        require(found.setdefault(own.key, own) == own, f'its storage {own.key} has two types')
        return own

    return storage


def _storage(identity: Any, length: int) -> Storage:
    require(type(identity) is tuple and len(identity) == length, 'it refers to what is no storage')
    kind, storage_type, key, location, numel = identity[:5]
    require(
        kind == 'storage'
        and isinstance(storage_type, StorageType)
        and type(key) is type(location) is str
        and type(numel) is int
        and numel >= 0,
        'it refers to what is no storage',
    )
    return Storage(key, storage_type.dtype, numel)


def _read_legacy(data: mmap) -> Any:
    """Check a file of torch before 1.6: five pickles, then each storage after the number of its elements."""
    found: dict[str, Storage] = {}
    size = 0

    def storage(identity: Any) -> Storage:
        nonlocal size
        require(type(identity) is tuple and identity[-1] is None, 'it refers to a part of a storage')
        own = _storage(identity, 6)
        require(own.dtype is not None, 'it has a tensor of a type that this old form of file lacks')
        if own.key not in found:
            size += own.nbytes + 8
            require(size <= len(data), f'its storages have more bytes than the file: {size}')
        require(found.setdefault(own.key, own) == own, f'its storage {own.key} has two types')
        return own

    if [read_pickle(data, {}, OF_TORCH), read_pickle(data, {}, OF_TORCH)] != [_MAGIC, _PROTOCOL]:
        raise DamagedError('it does not begin as a checkpoint')
    read_pickle(data, {}, OF_TORCH)
    content = read_pickle(data, CHECKPOINTS, OF_TORCH, storage)
    keys = read_pickle(data, {}, OF_TORCH)
    require(type(keys) is list and all(type(key) is str for key in keys), 'it has no list of storages')
    require(sorted(keys) == sorted(found), 'its list of storages is not that of its tensors')
    for key in keys:
        if int.from_bytes(data.read(8), 'little') != found[key].numel:
            raise DamagedError(f'its storage {key} has another size')
        data.seek(found[key].nbytes, os.SEEK_CUR)
    return content
