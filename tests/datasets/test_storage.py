"""Files by MMEngine's file backends: the batches of the folder, on any kind of worker; what a backend cannot do."""

import gc
import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.fileio import BaseStorageBackend, register_backend
from PIL import Image
from test_archives import VIEWS, batches, images, pack_zip, same
from test_datasets import write_cifar, write_mnist
from test_stl10_tiny_imagenet import write_stl10, write_tiny

from unmix.checkpoint.data import difference, fingerprint
from unmix.config import load_config
from unmix.datasets import (
    CIFAR10,
    CIFAR100,
    BrokenImage,
    ImageFolder,
    ImageNet,
    Subset,
    SubsetSampler,
    TinyImageNet,
    VideoFrames,
    WeightedSampler,
    storage,
)
from unmix.registry import DATASETS


@register_backend('shelf', prefixes='shelf')
class Shelf(BaseStorageBackend):
    """A backend of a user's own, which can list: what a folder holds, under other names."""

    opened: list[int] = []
    read: list[str] = []

    def __init__(self, at: str) -> None:
        self.at = Path(at)
        Shelf.opened.append(os.getpid())

    def _path(self, place: str) -> Path:
        return self.at / str(place).removeprefix('shelf://').lstrip('/')

    def get(self, filepath: str) -> bytes:
        Shelf.read.append(str(filepath))
        return self._path(filepath).read_bytes()

    def get_text(self, filepath: str) -> str:
        return self._path(filepath).read_text()

    def list_dir_or_file(
        self, dir_path: str, list_dir: bool = True, list_file: bool = True, recursive: bool = False
    ) -> Iterator[str]:
        root = self._path(dir_path)
        for path in root.rglob('*') if recursive else root.glob('*'):
            if (path.is_dir() and list_dir) or (path.is_file() and list_file):
                yield path.relative_to(root).as_posix()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images(tmp_path / 'x')
    return tmp_path / 'x'


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(folder.parent)))
    thread = Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01))
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()
    thread.join()


def table(folder: Path, labels: bool = True) -> Path:
    """Write the map of a folder, beside it."""
    dataset = ImageFolder(folder)
    names = [path.decode() for path in dataset.paths.tolist()]
    lines = [f'{name}\t{label}' if labels else name for name, label in zip(names, dataset.labels.tolist(), strict=True)]
    path = folder.parent / f'{folder.name}_map.txt'
    path.write_text('\n'.join(lines))
    return path


def database(folder: Path, prefix: str = '') -> Path:
    lmdb = pytest.importorskip('lmdb', reason='needs the package lmdb')
    path = folder.parent / 'x.lmdb'
    environment = lmdb.open(str(path), map_size=2**22)
    with environment.begin(write=True) as transaction:
        for name in ImageFolder(folder).paths.tolist():
            transaction.put(prefix.encode() + ascii_name(name.decode()).encode(), (folder / name.decode()).read_bytes())
    environment.close()
    return path


def ascii_name(name: str) -> str:
    """MMEngine's LMDB backend takes keys of ASCII characters."""
    return name.replace('é', 'e')


def by_lmdb(folder: Path, prefix: str = '') -> dict[str, Any]:
    lines = table(folder).read_text()
    (folder.parent / 'keys.txt').write_text(ascii_name(lines))
    args = dict(backend='lmdb', db_path=str(database(folder, prefix)))
    return dict(data_root=prefix.rstrip('/'), map_file=folder.parent / 'keys.txt', backend_args=args)


FORMS: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    'local': lambda folder, _: dict(data_root=folder, backend_args=dict(backend='local')),
    'address': lambda folder, address: dict(data_root=f'{address}/x', map_file=table(folder)),
    'http': lambda folder, address: dict(
        data_root=f'{address}/x', map_file=f'{address}/{table(folder).name}', backend_args=dict(backend='http')
    ),
    'lmdb': lambda folder, _: by_lmdb(folder),
    'lmdb below a prefix': lambda folder, _: by_lmdb(folder, 'train/'),
    'own': lambda folder, _: dict(data_root='x', backend_args=dict(backend='shelf', at=str(folder.parent))),
    'own by its prefix': lambda folder, _: dict(data_root='shelf://x', backend_args=dict(at=str(folder.parent))),
    'own with a map': lambda folder, _: dict(
        data_root='x', map_file=table(folder).name, backend_args=dict(backend='shelf', at=str(folder.parent))
    ),
}


@pytest.mark.parametrize('form', FORMS)
def test_batches_are_those_of_the_folder(form: str, folder: Path, address: str) -> None:
    given, expected = FORMS[form](folder, address), ImageFolder(folder, pipeline=VIEWS)
    dataset = ImageFolder(**given, pipeline=VIEWS)
    assert dataset.labels.tolist() == expected.labels.tolist()
    if 'lmdb' not in form:  # other names
        assert [dataset.paths.tolist(), dataset.classes] == [expected.paths.tolist(), expected.classes]
        assert difference(fingerprint(expected), fingerprint(dataset), dataset) is None
    same(batches(dataset), batches(expected))
    if form in ('address', 'lmdb', 'own'):
        same(batches(dataset, 2), batches(expected))  # after it was read from in this process
        copy = pickle.loads(pickle.dumps(dataset))
        same(batches(copy), batches(expected))
        full = ImageFolder(**given, pipeline=VIEWS, cache='full')
        same(batches(full), batches(expected))


def test_each_process_opens_a_backend_once_for_itself(folder: Path) -> None:
    args = dict(backend='shelf', at=str(folder.parent))
    storage._clients.clear()
    Shelf.opened.clear()
    sets = [ImageFolder('x', backend_args=args) for _ in range(2)]
    for dataset in sets:
        dataset.load(0)
    assert Shelf.opened == [os.getpid()]
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        sets[0].load(1)
        os.write(writing, json.dumps(Shelf.opened[1:] == [os.getpid()]).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b'true'


def test_two_sets_and_a_fork_read_one_lmdb(folder: Path) -> None:
    """LMDB opens a file once in a process, and no process may use what another has opened."""
    given = by_lmdb(folder)
    one, other = ImageFolder(**given), ImageFolder(**given, labelled=False)
    assert torch.equal(one.load(3)[0], other.load(3)[0])
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(one.load(3)[0], ImageFolder(folder).load(3)[0]) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_names_without_labels_or_suffix(folder: Path) -> None:
    (folder.parent / 'images').mkdir()
    for number in range(3):
        Image.new('RGB', (8, 8), (number, 0, 0)).save(folder.parent / 'images' / f'{number}', 'PNG')
    (folder.parent / 'names.txt').write_bytes(b'2\r\n0\n\n1')
    args = dict(backend='shelf', at=str(folder.parent))
    dataset = ImageFolder('images', labelled=False, map_file='names.txt', backend_args=args)
    assert dataset.labels is None
    assert [int(dataset.load(i)[0][0, 0, 0]) for i in range(3)] == [2, 0, 1]


def test_lists_lie_there_too(folder: Path, address: str) -> None:
    args = dict(backend='shelf', at=str(folder.parent))
    (folder.parent / 'few.txt').write_text('a/0.jpg\nc/2.png\n')
    (folder.parent / 'classes.txt').write_text('c\na\n')
    dataset = ImageFolder('x', backend_args=args)
    for files, given in (('few.txt', args), (f'{address}/few.txt', None), (folder.parent / 'few.txt', None)):
        assert Subset(dataset, files=files, backend_args=given).paths.tolist() == [b'a/0.jpg', b'c/2.png']
    for classes in ('classes.txt', folder.parent / 'classes.txt'):
        assert ImageFolder('x', class_list=classes, backend_args=args).classes == ('a', 'c')
    assert ImageFolder('x', class_list='x', backend_args=args).classes == ('a', 'b é', 'c')
    with pytest.raises(FileNotFoundError, match=r'dataset\.files: .*none\.txt here, nor by the backend .http. \(.*404'):
        Subset(dataset, files=f'{address}/none.txt')


@pytest.mark.parametrize('annotations', [False, True])
def test_imagenet_and_tiny_imagenet(annotations: bool, tmp_path: Path) -> None:
    images(tmp_path / 'net' / 'train')
    for name in ('b é', 'c'):
        (tmp_path / 'net' / 'val' / name).mkdir(parents=True)
        Image.new('RGB', (8, 8)).save(tmp_path / 'net' / 'val' / name / 'x.png')
    args = dict(backend='shelf', at=str(tmp_path))
    for split in ('train', 'val'):
        local, stored = ImageNet(tmp_path / 'net', split), ImageNet('net', split, backend_args=args)
        assert [local.classes, local.labels.tolist()] == [stored.classes, stored.labels.tolist()]
        assert all(torch.equal(local.load(i)[0], stored.load(i)[0]) for i in range(len(local)))
    write_tiny(tmp_path / 'tiny', annotations)
    for split in ('train', 'test'):
        local, stored = TinyImageNet(tmp_path / 'tiny', split), TinyImageNet('tiny', split, backend_args=args)
        assert [local.classes, local.labels.tolist()] == [stored.classes, stored.labels.tolist()]


def test_imagenet_of_a_backend_that_cannot_list(folder: Path) -> None:
    given = by_lmdb(folder, 'net/train/')
    lines = (folder.parent / 'keys.txt').read_text()
    (folder.parent / 'net').mkdir()
    (folder.parent / 'net' / 'train_map.txt').write_text(lines)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        dataset = ImageNet('net', backend_args=given['backend_args'])
    assert dataset.labels.tolist() == ImageFolder(folder).labels.tolist()
    assert torch.equal(dataset.load(5)[0], ImageFolder(folder).load(5)[0])


def test_what_cannot_be_read_is_named_and_skipped(folder: Path, address: str) -> None:
    given = by_lmdb(folder)
    lines = (folder.parent / 'keys.txt').read_text().replace('a/2.png', 'a/none.png')
    (folder.parent / 'keys.txt').write_text(lines)
    dataset = ImageFolder(**given)
    with pytest.raises(
        BrokenImage,
        match=r"The backend 'lmdb' does not give the image a/none\.png \(it has no such key\).* It is number",
    ):
        dataset.__getitems__(range(4))
    items = ImageFolder(**given, broken='skip').__getitems__(range(4))
    assert [item['index'] for item in items] == [0, 1, 3, 4]
    assert ImageFolder(**given, cache='full').files.sizes()[2] == 0
    missing = ImageFolder(**given | dict(backend_args=dict(backend='lmdb', db_path=str(folder / 'x.lmdb'))))
    with pytest.raises(BrokenImage, match=r'x\.lmdb: No such file'):
        missing.load(0)
    listed = folder.parent / 'x_map.txt'
    with pytest.raises(BrokenImage, match=r"'http' does not give the image http.*/none/a/0\.jpg \(HTTP Error 404"):
        ImageFolder(f'{address}/none', map_file=listed).load(0)
    with pytest.raises(BrokenImage, match=r"'http' does not give .* refused"):
        ImageFolder('http://127.0.0.1:1/x', map_file=listed).load(0)
    (folder / 'a' / '0.jpg').write_bytes(b'no image')
    with pytest.raises(BrokenImage, match=r'http.*/x/a/0\.jpg cannot be read \(it is empty, or no image'):
        ImageFolder(f'{address}/x', map_file=listed).__getitems__(range(4))


OWN = dict(backend='shelf', at='.')
MEMCACHED = dict(backend='memcached', server_list_cfg='a', client_cfg='b')


@pytest.mark.parametrize(('given', 'error', 'message'), [
    (dict(backend_args=dict(backend='s4')), ValueError, r"backend is 's4'; expected one of local, .*shelf"),
    (dict(backend_args='lmdb'), ValueError, r"dataset\.backend_args is 'lmdb'; expected a dict"),
    (dict(backend_args=dict(backend='petrel')), ImportError, r"'petrel' cannot be used here \(.*petrel_client"),
    (dict(backend_args=MEMCACHED), ImportError, r"'memcached'.*install"),
    (dict(backend_args=dict(backend='memcached')), ValueError, r'not take .*missing a required argument: .server'),
    (dict(backend_args=dict(backend='local', at='x')), ValueError, r"'local' does not take"),
    (dict(data_root='gs://x'), ValueError, r'gs://x begins with gs://; expected one of'),
    (dict(data_root='http://127.0.0.1:1/x'), ValueError, r"backend 'http' cannot list .*map_file"),
    (dict(data_root='http://127.0.0.1:1/x.zip'), ValueError, r'x\.zip is an archive.* whole files only'),
    (dict(data_root='none', backend_args=OWN), FileNotFoundError, r'the folder none holds no image'),
    (dict(map_file='none.txt', backend_args=OWN), FileNotFoundError, r'map_file: .*none\.txt here, nor by'),
])  # fmt: skip
def test_what_a_backend_cannot_do(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as found:
        ImageFolder(**dict(data_root='x') | given)
    assert '\n' not in str(found.value)


def test_local_archives_are_read_as_before(folder: Path) -> None:
    path = pack_zip(folder.parent / 'y.zip', [('a/0.png', (folder / 'a/2.png').read_bytes())])
    assert len(ImageFolder(path, backend_args=dict(backend='local'))) == 1


@pytest.mark.slow
def test_keys_of_a_config(tmp_path: Path) -> None:
    (tmp_path / 'x.py').write_text(
        "_base_ = 'unmix::quickstart/unmix-moco_folder.py'\n"
        "args = dict(backend='lmdb', db_path='train.lmdb')\n"
        "train_dataloader = dict(dataset=dict(data_root='', map_file='m', backend_args=args, decoder='pil'))\n"
    )
    assert load_config(str(tmp_path / 'x.py')).train_dataloader.dataset.backend_args.backend == 'lmdb'


def write_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write each published data set, small."""
    from test_video import write as write_video

    images(root / 'folder')
    images(root / 'net' / 'train')
    write_tiny(root / 'tiny', annotations=True)
    write_stl10(root, monkeypatch)
    for kind in (CIFAR10, CIFAR100):
        write_cifar(root / kind.reader.base_folder, kind, monkeypatch)
    write_mnist(root / 'MNIST' / 'raw', '.gz')
    write_mnist(root / 'raw')
    write_video(root / 'video' / 'a' / '1.avi', frames=5)
    write_video(root / 'video' / 'b' / '2.avi', frames=4)
    (root / 'few.txt').write_text('a/0.jpg\nc/2.png\n')


# What each registered data set is given beside its place.
SETS: dict[str, dict[str, Any]] = {
    'ImageFolder': dict(data_root='folder'),
    'ImageNet': dict(data_root='net'),
    'TinyImageNet': dict(data_root='tiny'),
    'CIFAR10': dict(data_root=''),
    'CIFAR100': dict(data_root=''),
    'STL10': dict(data_root=''),
    'MNIST': dict(data_root='', split='test'),
    'FashionMNIST': dict(data_root='', split='test'),
    'VideoFrames': dict(data_root='video'),
    'Subset': dict(files='few.txt'),
}
WITHOUT_FILES = ('ArrayDataset', 'Digits', 'FirstImages', 'MixtureDataset')  # of their own
ELSEWHERE = ('HuggingFaceDataset',)  # its tables are those of the package datasets; see test_hugging_face.py


@pytest.mark.slow
def test_every_data_set_reads_all_its_files_by_its_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip('mmcv', reason='needs the package mmcv')
    write_all(tmp_path / 'far', monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TMPDIR', str(tmp_path / 'copies'))
    (tmp_path / 'copies').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', None)
    args = dict(backend='shelf', at=str(tmp_path / 'far'))
    ours = {name for name, kind in DATASETS.module_dict.items() if kind.__module__.startswith('unmix.')}
    assert ours == {*SETS, *WITHOUT_FILES, *ELSEWHERE}
    for name, options in SETS.items():
        where = dict(data_root=tmp_path / 'far' / options['data_root']) if 'data_root' in options else {}
        if name == 'Subset':
            where = dict(files=tmp_path / 'far' / 'few.txt')
            options = options | dict(dataset=ImageFolder('folder', backend_args=args))
        local = DATASETS.build(dict(type=name, **options | where))
        stored = DATASETS.build(dict(type=name, **options, backend_args=args))
        assert [len(stored), stored.classes] == [len(local), local.classes], name
        for index in range(len(local)):
            item, expected = stored[index], local[index]
            assert torch.equal(item['inputs'], expected['inputs']), name
            assert item.get('label') == expected.get('label'), name
    del local, stored
    gc.collect()
    assert not list((tmp_path / 'copies').iterdir())


@pytest.mark.parametrize('name', WITHOUT_FILES)
def test_data_sets_without_files_refuse_a_backend(name: str) -> None:
    with pytest.raises(TypeError, match='backend_args'):
        DATASETS.build(dict(type=name, backend_args=OWN))


@pytest.mark.parametrize('name', ['CIFAR10', 'CIFAR100', 'STL10', 'MNIST', 'FashionMNIST', 'VideoFrames'])
def test_what_a_backend_does_not_have_is_named(name: str, tmp_path: Path) -> None:
    pytest.importorskip('mmcv', reason='needs the package mmcv')
    kind = DATASETS.get(name)
    with pytest.raises(FileNotFoundError, match=r'dataset\.data_root: .*none') as error:
        kind('none', backend_args=dict(backend='shelf', at=str(tmp_path)))
    assert '\n' not in str(error.value)
    place = 'http://127.0.0.1:1/x' + ('.mp4' if name == 'VideoFrames' else '')
    with pytest.raises(FileNotFoundError, match=r"dataset\.data_root: the backend 'http' .*refused"):
        kind(place)
    with pytest.raises(ValueError, match=r'dataset\.backend_args is 3; expected a dict'):
        kind('x', backend_args=3)


@pytest.mark.slow
def test_videos_of_a_backend(tmp_path: Path, address: str, folder: Path) -> None:
    pytest.importorskip('mmcv', reason='needs the package mmcv')
    from test_video import write as write_video

    write_video(folder.parent / 'v' / '1.avi', frames=5)
    write_video(folder.parent / 'v' / '2.avi', frames=4)
    assert len(VideoFrames(f'{address}/v/1.avi')) == 5
    with pytest.raises(ValueError, match=r"'http' cannot list .*/v\. Give one video"):
        VideoFrames(f'{address}/v')
    args = dict(backend='shelf', at=str(folder.parent))
    dataset = VideoFrames('v', backend_args=args)
    assert difference(fingerprint(VideoFrames(folder.parent / 'v')), fingerprint(dataset), dataset) is None
    child = os.fork()
    if child == 0:
        del dataset  # a worker that ends leaves the copies
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert pickle.loads(pickle.dumps(dataset)).load(8)[0].shape == dataset.load(8)[0].shape

    def refused(self: Shelf, place: str) -> bytes:
        if place.endswith('2.avi'):
            raise OSError('lost')
        return self._path(place).read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shelf, 'get', refused)
        with pytest.raises(FileNotFoundError, match=r"'shelf' does not give 1 of the 2 videos of v: 2\.avi \(lost\)"):
            VideoFrames('v', backend_args=args)
        with pytest.warns(UserWarning, match=r'2\.avi \(lost\)\. They are left out'):
            assert len(VideoFrames('v', backend_args=args, broken='skip')) == 5


def test_copies_without_room_or_outside_of_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'x').write_bytes(b'1')
    shelf = storage.Storage(dict(backend='shelf', at=str(tmp_path)), '', 'dataset.backend_args')
    copies = storage.LocalCopies(shelf, b'', [b'../x', b'/x', b'x'])
    assert sorted(copies.absent) == [b'../x', b'/x']
    assert Path(os.fsdecode(copies.folder), 'x').read_bytes() == b'1'

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'makedirs', full)
    with pytest.raises(ValueError, match=r'dataset\.backend_args: .* \(No space left on device\)\. .*TMPDIR'):
        storage.LocalCopies(shelf, b'', [b'x'])


def test_lists_of_samplers_lie_there_too(tmp_path: Path) -> None:
    np.save(tmp_path / 'rows.npy', np.array([3, 1]))
    (tmp_path / 'weights.txt').write_text('0\n1\n0\n1\n')
    args = dict(backend='shelf', at=str(tmp_path))
    rows = SubsetSampler(range(4), 'rows.npy', shuffle=False, seed=0, backend_args=args)
    assert [key.index for key in rows] == [3, 1]
    for place, given in (('weights.txt', args), ('shelf://weights.txt', dict(at=str(tmp_path)))):
        weighted = WeightedSampler(range(4), place, seed=0, backend_args=given)
        assert sorted(key.index for key in weighted) == [1, 1, 3, 3]
    with pytest.raises(FileNotFoundError, match=r'sampler\.weights: .*none\.txt here, nor by the backend .shelf.'):
        WeightedSampler(range(4), 'none.txt', seed=0, backend_args=args)
    with pytest.raises(ValueError, match=r"sampler\.backend_args\.backend is 's4'"):
        SubsetSampler(range(4), 'none.txt', seed=0, backend_args=dict(backend='s4'))
