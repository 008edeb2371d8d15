"""A checkpoint never executes code, whatever it comes from; MMEngine's own checkpoints load all the same."""

import os
import pickle
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint

from unmix import compat
from unmix.checkpoint.load import allowed_globals
from unmix.checkpoint.save import save_checkpoint


class Touch:
    """Pickles to a call of ``os.system`` that makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f'touch {self.path}',)


class Getattr:
    """Pickles to ``getattr(*args)``."""

    def __init__(self, *args: Any):
        self.args = args

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, self.args


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address at which the files of ``tmp_path`` are served; torch's download cache is a folder of the test."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch_home'))
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f'http://127.0.0.1:{http.server_port}'
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def malicious(tmp_path: Path) -> Path:
    path = tmp_path / 'malicious.pth'
    torch.save({'state_dict': {'w': torch.ones(1)}, 'meta': Touch(tmp_path / 'touched')}, path)
    return path


def load(filename: str | Path) -> Any:
    return CheckpointLoader.load_checkpoint(str(filename), map_location='cpu', logger='silent')


def test_the_malicious_file_does_execute_when_unpickled_freely(malicious: Path):
    """Else the tests below would prove nothing."""
    torch.load(malicious, weights_only=False)
    assert malicious.with_name('touched').exists()


REFUSAL = r"is refused: it holds '(posix|nt)\.system'.* re-save it with weights only"


def test_a_malicious_local_file_is_refused(malicious: Path):
    with pytest.raises(ValueError, match=REFUSAL):
        load(malicious)
    assert not malicious.with_name('touched').exists()


def test_a_malicious_download_is_refused(malicious: Path, server: str):
    with pytest.raises(ValueError, match=rf"checkpoint '{server}/malicious.pth' {REFUSAL}"):
        load(f'{server}/malicious.pth')
    assert not malicious.with_name('touched').exists()


SCHEMES = {
    'torchvision://net': 'torchvision',
    'modelzoo://net': 'torchvision',
    'open-mmlab://net': 'openmmlab',
    'openmmlab://net': 'openmmlab',
    'open-mmlab://old_net': 'openmmlab',
    'openmmlab://net_at_home': 'openmmlab',
    'mmcls://net': 'mmcls',
    'pavi://bucket/net.pth': 'pavi',
    's3://bucket/net.pth': 'ceph',
    'cluster:s3://bucket/net.pth': 'ceph',
    'petrel://bucket/net.pth': 'ceph',
}


@pytest.fixture
def remote(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that each of SCHEMES names: on a server, in MMENGINE_HOME, or behind clients that are stand-ins."""
    file = tmp_path / 'net.pth'
    tables = {
        'get_torchvision_models': {'net': f'{server}/net.pth'},
        'get_mmcls_models': {'net': f'{server}/net.pth'},
        'get_external_models': {'net': f'{server}/net.pth', 'net_at_home': 'net.pth'},
        'get_deprecated_model_names': {'old_net': 'net'},
    }
    for name, table in tables.items():
        monkeypatch.setattr(mmengine_checkpoint, name, lambda table=table: table)
    monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
    petrel = SimpleNamespace(Client=lambda **_: SimpleNamespace(Get=lambda path: file.read_bytes()))
    monkeypatch.setitem(sys.modules, 'petrel_client', SimpleNamespace(client=petrel))
    monkeypatch.setitem(sys.modules, 'petrel_client.client', petrel)
    model = SimpleNamespace(name='net.pth', download=lambda target: shutil.copyfile(file, target))
    monkeypatch.setitem(sys.modules, 'pavi', SimpleNamespace(modelcloud=SimpleNamespace(get=lambda path: model)))
    return file


@pytest.mark.parametrize('name', SCHEMES)
def test_weights_are_loaded_under_every_scheme_of_mmengine(name: str, remote: Path):
    torch.save({'state_dict': {'backbone.w': torch.arange(3.0)}}, remote)
    (tensor,) = load(name)['state_dict'].values()  # that of mmcls loses its prefix
    assert tensor.tolist() == [0, 1, 2]
    assert CheckpointLoader._get_checkpoint_loader(name).__name__ == f'load_from_{SCHEMES[name]}'


@pytest.mark.parametrize('name', SCHEMES)
def test_a_malicious_file_is_refused_under_every_scheme_of_mmengine(name: str, remote: Path, malicious: Path):
    malicious.replace(remote)
    with pytest.raises(ValueError, match=REFUSAL) as caught:
        load(name)
    if SCHEMES[name] in ('ceph', 'pavi'):
        assert str(caught.value).startswith(f'checkpoint {name!r}')
    loader = getattr(mmengine_checkpoint, f'load_from_{SCHEMES[name]}')  # called by name
    with pytest.raises(ValueError, match=REFUSAL):
        loader(name)
    assert not malicious.with_name('touched').exists()


@pytest.mark.parametrize(('name', 'loader'), [
    *[(f'{scheme}://xx.xx/xx.pth', 'http') for scheme in ('http', 'https')],
    *[(f'{prefix}:s3://xx.xx/xx.pth', 'ceph') for prefix in ('open-mmlab', 'openmmlab')],
    *[(f'{start}s3://xx.xx/xx.pth', 'local') for start in ('s', ' ', 'openmmlab', ':')],
    ('xx.pth', 'local'),
])  # fmt: skip
def test_loaders_keep_the_names_that_mmengine_logs(name: str, loader: str):
    assert CheckpointLoader._get_checkpoint_loader(name).__name__ == f'load_from_{loader}'


def test_every_loader_of_mmengine_is_among_them():
    theirs = {name for name in vars(mmengine_checkpoint) if name.startswith('load_from_')}
    assert theirs == {f'load_from_{kind}' for kind in SCHEMES.values()} | {'load_from_local', 'load_from_http'}


@pytest.mark.parametrize(('name', 'message'), [
    ('open-mmlab://nett', r"checkpoint 'open-mmlab://nett': .* no 'nett' .* Did you mean net\?"),
    ('mmcls://nett', r"checkpoint 'mmcls://nett': .* Did you mean net\?"),
    ('torchvision://zzz', r"checkpoint 'torchvision://zzz': MMEngine knows no 'zzz' of torchvision://\.$"),
])  # fmt: skip
def test_a_name_that_its_scheme_does_not_have(name: str, message: str, remote: Path):
    with pytest.raises(KeyError) as caught:
        load(name)
    assert re.search(message, caught.value.args[0])


@pytest.mark.parametrize(('name', 'package'), [('s3://bucket/x.pth', 'petrel_client'), ('pavi://x.pth', 'pavi')])
def test_a_scheme_whose_client_is_not_installed(name: str, package: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"checkpoint '{name}': .*install {package}.* give its path"):
        load(name)


@pytest.mark.parametrize('call', ['load_from_local', 'load_from_http'])
def test_mmengine_functions_of_the_same_name_are_safe_too(call: str, malicious: Path, server: str):
    filename = str(malicious) if call == 'load_from_local' else f'{server}/malicious.pth'
    with pytest.raises(ValueError, match=REFUSAL):
        getattr(mmengine_checkpoint, call)(filename, map_location='cpu')
    assert not malicious.with_name('touched').exists()


def test_schemes_of_other_packages_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))

    def load_from_mine(filename: str, map_location: Any = None) -> str:
        return filename

    CheckpointLoader.register_scheme(prefixes='mine://', loader=load_from_mine)
    compat.install()
    assert load('mine://x') == 'mine://x'


def test_an_ordinary_download_loads(server: str, tmp_path: Path):
    torch.save({'w': torch.arange(3.0)}, tmp_path / 'weights.pth')
    assert load(f'{server}/weights.pth')['w'].tolist() == [0, 1, 2]


def test_two_addresses_with_the_same_file_name_are_two_checkpoints(server: str, tmp_path: Path):
    for folder, value in (('a', 1.0), ('b', 2.0)):
        (tmp_path / folder).mkdir()
        torch.save({'w': torch.tensor(value)}, tmp_path / folder / 'weights.pth')
    assert [load(f'{server}/{folder}/weights.pth')['w'].item() for folder in 'aba'] == [1, 2, 1]


def cached(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / 'torch_home').rglob('*') if path.is_file()]


def test_a_download_comes_once(server: str, tmp_path: Path):
    torch.save({'w': torch.ones(1)}, tmp_path / 'weights.pth')
    load(f'{server}/weights.pth')
    (tmp_path / 'weights.pth').unlink()
    assert load(f'{server}/weights.pth')['w'].item() == 1
    assert len(cached(tmp_path)) == 1


@pytest.mark.parametrize('kind', ['text', 'cut off', 'bit flipped in a sealed file', 'malicious'])
def test_a_download_that_cannot_be_loaded_does_not_stay(kind: str, server: str, malicious: Path, tmp_path: Path):
    path = tmp_path / 'weights.pth'
    save_checkpoint({'w': torch.ones(1000)}, str(path))
    whole = path.read_bytes()
    flipped = whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:]
    contents = {'text': b'<html>sign in</html>', 'cut off': whole[:2000], 'malicious': malicious.read_bytes()}
    path.write_bytes(contents.get(kind, flipped))
    with pytest.raises(ValueError, match=rf"checkpoint '{server}/weights\.pth' (cannot be read|is damaged|is refused)"):
        load(f'{server}/weights.pth')
    assert cached(tmp_path) == []
    assert not (tmp_path / 'touched').exists()
    path.write_bytes(whole)
    assert load(f'{server}/weights.pth')['w'].sum() == 1000


def test_a_sealed_file_that_was_damaged_in_the_cache_is_refused_once(server: str, tmp_path: Path):
    save_checkpoint({'w': torch.ones(1000)}, str(tmp_path / 'weights.pth'))
    load(f'{server}/weights.pth')
    (path,) = cached(tmp_path)
    path.write_bytes(path.read_bytes()[:2000] + b'?' + path.read_bytes()[2001:])
    with pytest.raises(ValueError, match=r'is damaged.*download it again'):
        load(f'{server}/weights.pth')
    assert load(f'{server}/weights.pth')['w'].sum() == 1000


def test_getattr_is_allowed_for_the_statistics_of_history_buffer_only(tmp_path: Path):
    path = tmp_path / 'x.pth'
    torch.save([Getattr(HistoryBuffer, name) for name in ('min', 'max', 'current', 'mean')], path)
    assert load(path) == [HistoryBuffer.min, HistoryBuffer.max, HistoryBuffer.current, HistoryBuffer.mean]
    for args in [(np.ndarray, 'tofile'), (HistoryBuffer, '__init__'), (HistoryBuffer([1], [1]), 'mean')]:
        torch.save(Getattr(*args), path)
        with pytest.raises(ValueError, match=rf"is refused: it holds .getattr\(\w+, '{args[1]}'\)"):
            load(path)


def test_the_allowed_types_do_not_leak_into_other_calls_of_torch_load(tmp_path: Path):
    path = tmp_path / 'x.pth'
    torch.save(HistoryBuffer([1.0], [1]), path)
    assert load(path).mean() == 1.0
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize('dtype', ['bool', 'int8', 'uint8', 'int32', 'uint32', 'int64', 'uint64', 'float16', 'float64'])
def test_numeric_arrays_and_scalars_load_unchanged(dtype: str, tmp_path: Path):
    array = np.array([[0, 1], [1, 0]], dtype=dtype)
    torch.save({'array': array, 'scalar': array[0, 1]}, tmp_path / 'x.pth')
    loaded = load(tmp_path / 'x.pth')
    np.testing.assert_array_equal(loaded['array'], array, strict=True)
    assert (loaded['scalar'], type(loaded['scalar'])) == (array[0, 1], type(array[0, 1]))


def test_arrays_of_objects_are_refused(tmp_path: Path):
    torch.save(np.array([{}, None], dtype=object), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='checkpoint'):
        load(tmp_path / 'x.pth')


def test_numpy_functions_are_allowed_under_both_spellings():
    """Files travel between numpy 1 (numpy.core) and numpy 2 (numpy._core)."""
    cores = ('core', '_core')
    names = {entry[1] for entry in allowed_globals() if isinstance(entry, tuple)}
    assert {f'numpy.{core}.multiarray.{name}' for core in cores for name in ('_reconstruct', 'scalar')} < names


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"checkpoint 'nowhere/x\.pth' does not exist"):
        load('nowhere/x.pth')


@pytest.mark.parametrize('kind', ['empty', 'text', 'cut off'])
def test_what_is_no_checkpoint_is_said_to_be_none(kind: str, tmp_path: Path):
    path = tmp_path / 'x.pth'
    torch.save({'w': torch.ones(1000)}, path)
    path.write_bytes({'empty': b'', 'text': b'<html>not found</html>', 'cut off': path.read_bytes()[:2000]}[kind])
    with pytest.raises(ValueError, match=r"'.*x\.pth' cannot be read: expected a file written by torch\.save"):
        load(path)
