"""Files that torch's or numpy's functions would follow into foreign memory, or that become larger than they are."""

import io
import pickle
import runpy
import zipfile
from argparse import Namespace
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from unmix.checkpoint.allowed import SMALL
from unmix.checkpoint.contents import read_contents
from unmix.checkpoint.files import verify
from unmix.checkpoint.load import load_from_local
from unmix.checkpoint.save import save_checkpoint
from unmix.converters.containers import read

FUZZ = runpy.run_path(str(Path(__file__).parents[2] / 'tools' / 'misc' / 'fuzz_checkpoints.py'))
Call = FUZZ['Call']


def refused(content: bytes, path: Path) -> str:
    """Return the message of the refusal; 'loaded' if there is none. Nothing is loaded by torch or numpy."""
    path.write_bytes(content)
    try:
        read(path) if path.suffix == '.pkl' else read_contents(path)
    except ValueError as error:
        return str(error)
    return 'loaded'


def archive(value: Any, **options: Any) -> bytes:
    torch.save({'state_dict': {'w': value}}, buffer := io.BytesIO(), **options)
    return buffer.getvalue()


OBJECTS = Call(np.dtype, 'O', False, True, state=(3, '|', None, None, None, -1, -1, 63))
UNFLAGGED = Call(np.dtype, 'O', False, True, state=(3, '|', None, None, None, -1, -1, 0))
FIELD = Call(np.dtype, 'V8', False, True, state=(3, '|', None, ('a',), {'a': (np.dtype('f8'), 10**9)}, 8, 8, 0))
RECONSTRUCT, SCALAR = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
DATA = b'ABCDEFGH' * 4


@pytest.mark.parametrize('dtype', [OBJECTS, UNFLAGGED, FIELD])
@pytest.mark.parametrize(
    'array',
    [
        lambda dtype: Call(np.ndarray, (4,), dtype, DATA),
        lambda dtype: Call(RECONSTRUCT, np.ndarray, (0,), b'b', state=(1, (4,), dtype, False, DATA)),
        lambda dtype: Call(SCALAR, dtype, DATA[:8]),
    ],
    ids=['ndarray', 'reconstruct', 'scalar'],
)
def test_bytes_never_become_pointers(array: Callable, dtype: Any, tmp_path: Path):
    for content, name in (
        (archive(array(dtype)), 'x.pth'),
        (archive(array(dtype), _use_new_zipfile_serialization=False), 'y.pth'),
        (pickle.dumps({'model': array(dtype)}, 4), 'x.pkl'),
    ):
        assert 'numpy dtype' in refused(content, tmp_path / name)


def view(offset: Any, size: Any, stride: Any) -> Any:
    storage = torch.storage.TypedStorage(wrap_storage=torch.arange(4.0).untyped_storage(), dtype=torch.float32)
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


@pytest.mark.filterwarnings('ignore:TypedStorage')
@pytest.mark.parametrize(
    ('tensor', 'message'),
    [
        (view(0, (5,), (1,)), 'reaches beyond its 16 bytes'),
        (view(1, (4,), (1,)), 'reaches beyond'),
        (view(0, (2,), (2**61,)), 'reaches beyond'),
        (view(0, (2**40,), (0,)), 'would need 4398046511104 bytes'),
        (view(0, (2,), (-1,)), 'no shape, stride or offset'),
        (view(-1, (2,), (1,)), 'no shape, stride or offset'),
        (view(0, (2, 2), (1,)), 'no shape, stride or offset'),
        (view(0, (4,), (1,)), 'loaded'),
        (view(3, (0, 7), (1, 1)), 'loaded'),
        (view(0, (SMALL // 4,), (0,)), 'loaded'),
    ],
)
@pytest.mark.parametrize('zipped', [True, False])
def test_a_tensor_stays_in_its_storage(zipped: bool, tensor: Any, message: str, tmp_path: Path):
    assert message in refused(archive(tensor, _use_new_zipfile_serialization=zipped), tmp_path / 'x.pth')


@pytest.mark.parametrize(
    'state', [{'data': 1}, {'__class__': 1}, {'grad': None}, {'_backward_hooks': 3}, {'a': [1]}, ({}, {'a': 1}), [1]]
)
def test_a_tensor_has_attributes_of_its_own_only(state: Any, tmp_path: Path):
    tensor = torch.ones(2)
    parts = tensor.__reduce_ex__(2)
    for kind in (torch.Tensor, torch.nn.Parameter):
        value = Call(torch._tensor._rebuild_from_type_v2, parts[0], kind, parts[1], state)
        assert 'a tensor has attributes' in refused(archive(value), tmp_path / 'x.pth')


@pytest.mark.parametrize('zipped', [True, False])
def test_a_storage_has_the_bytes_that_it_declares(zipped: bool, tmp_path: Path):
    content = archive(torch.zeros(300), _use_new_zipfile_serialization=zipped)
    declared = (300).to_bytes(2, 'little')
    more = (60_000).to_bytes(2, 'little')
    changed = (
        FUZZ['rezipped'](content, lambda data: data.replace(b'M' + declared, b'M' + more), FUZZ['random'].Random(0))
        if zipped
        else content.replace(b'M' + declared, b'M' + more)
    )
    message = refused(changed, tmp_path / 'x.pth')
    assert ('1200 bytes instead of 240000' if zipped else 'more bytes than the file') in message


def test_what_becomes_larger_than_the_file_is_refused(tmp_path: Path):
    for suffix, content in FUZZ['bombs'](1000):
        assert refused(content, tmp_path / f'x{suffix}') != 'loaded', content[:40]


def test_records_of_an_archive_are_apart_and_there_once(tmp_path: Path):
    content = archive(torch.zeros(300))
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(twice := io.BytesIO(), 'w') as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        new.writestr(old.namelist()[0].replace('data.pkl', 'DATA.pkl'), b'')
    assert 'there twice' in refused(twice.getvalue(), tmp_path / 'x.pth')
    size = (1200).to_bytes(4, 'little')
    longer = content.replace(size + size, 2 * (5000).to_bytes(4, 'little'))
    assert 'reaches into the next' in refused(longer, tmp_path / 'x.pth')
    assert 'its end is missing or changed' in refused(content[:4] + content, tmp_path / 'x.pth')


def test_an_error_of_torch_about_the_archive_is_one_message(tmp_path: Path):
    content = archive(torch.zeros(3))
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(tmp_path / 'x.pth', 'w') as new:
        for entry in old.infolist():
            new.writestr(entry.filename, b'@' if entry.filename.endswith('/version') else old.read(entry))
    with pytest.raises(ValueError, match=r"x\.pth' cannot be read: .*parse the version"):
        load_from_local(str(tmp_path / 'x.pth'))


@pytest.mark.parametrize('at', [0.4, 0.5, 0.6])
def test_a_changed_bit_is_seen_without_a_seal(at: float, tmp_path: Path):
    path = tmp_path / 'x.pth'
    torch.save({'w': torch.zeros(3000)}, path)
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.pth' is damaged: the bytes of its record data/0 are not those"):
        load_from_local(str(path))


def test_an_archive_without_checksums_loads(tmp_path: Path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({'w': torch.ones(3)}, tmp_path / 'x.pth')
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_from_local(str(tmp_path / 'x.pth'))['w'].sum() == 3
    assert not verify(tmp_path / 'x.pth')


@pytest.mark.parametrize('cut', [0.1, 0.5, 0.9, 0.999])
def test_a_cut_file_is_named(cut: float, tmp_path: Path):
    path = tmp_path / 'x.pth'
    save_checkpoint({'w': torch.zeros(3000)}, str(path))
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"x\.pth' (cannot be read|is damaged).*again"):
        load_from_local(str(path))


@pytest.mark.parametrize('zipped', [True, False])
def test_what_trainings_write_loads_unchanged(zipped: bool, tmp_path: Path):
    """Aliases, views, parameters, other types, histories, counters, settings of foreign runs."""
    weight = torch.arange(12.0).view(3, 4)
    state = torch.nn.Linear(2, 2).state_dict()
    marked = torch.ones(3)
    marked._fsdp_flattened = True
    content = dict(
        state_dict=state,
        views=[weight, weight.t(), weight[1:, ::2], weight[0].expand(5, 4), torch.zeros(0, 3)],
        types=[torch.ones(2, dtype=dtype) for dtype in (torch.bfloat16, torch.bool, torch.int8)]
        + zipped * [torch.ones(2, dtype=torch.uint16)],
        marked=marked,
        parameter=torch.nn.Parameter(weight.clone()),
        history=HistoryBuffer([1.0, 2.0], [1, 1]),
        empty=np.zeros(0),
        rest=[Counter([1, 1]), {1, 2}, 1j, torch.Size([3]), torch.device('cpu'), b'x', np.float32(3), None, 2**70],
        args=Namespace(lr=0.1, arch='resnet50'),
    )
    torch.save(content, tmp_path / 'x.pth', _use_new_zipfile_serialization=zipped)
    loaded = load_from_local(str(tmp_path / 'x.pth'))
    assert loaded['state_dict']._metadata == state._metadata
    for key in ('views', 'types'):
        assert all(map(torch.equal, loaded[key], content[key]))
    assert loaded['views'][1].data_ptr() == loaded['views'][0].data_ptr()
    assert torch.equal(loaded['parameter'], content['parameter'])
    assert loaded['marked']._fsdp_flattened
    assert loaded['history'].mean() == 1.5
    assert loaded['rest'] == content['rest']
    assert vars(loaded['args']) == vars(content['args'])


def test_some_mutated_and_built_files(tmp_path: Path):
    """A seeded share of tools/misc/fuzz_checkpoints.py, without loading by torch: no error but ValueError."""
    draw, seeds = FUZZ['random'].Random(0), FUZZ['seeds']()
    files = [FUZZ['mutated'](draw, seeds) for _ in range(100)]
    files += [file for file, _ in zip(FUZZ['built'](draw), range(100), strict=False)]
    messages = [refused(content, tmp_path / f'x{suffix}') for suffix, content in files]
    assert 0 < messages.count('loaded') < 100


@pytest.mark.slow
def test_no_mutated_or_built_file_crashes_a_process(tmp_path: Path):
    """A seeded share of what ``python tools/misc/fuzz_checkpoints.py`` tries."""
    draw, seeds = FUZZ['random'].Random(0), FUZZ['seeds']()
    built = [file for file, _ in zip(FUZZ['built'](draw), range(15), strict=False)]
    files = FUZZ['bombs']() + built + [FUZZ['mutated'](draw, seeds) for _ in range(15)]
    found = FUZZ['load_all'](files, tmp_path / 'keep', 256)
    assert found.keys() == {'loaded', 'refused'}, found
    assert found.total() == len(files)
