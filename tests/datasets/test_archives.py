"""The same images in a folder, zips, tars and shards; archives that are damaged, or made to do harm."""

import gc
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import threading
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from unmix.checkpoint.data import difference, fingerprint
from unmix.datasets import EpochSampler, ImageFolder, ImageNet, Subset, archive, archive_directory, collate, scan
from unmix.utils.names import text

VIEWS = dict(
    type='MultiView',
    num_views=2,
    transforms=[dict(type='RandomResizedCrop', size=8), dict(type='RandomHorizontalFlip')],
)
NAMES = [
    f'{label}/{i}.{suffix}' for label in ('a', 'b é', 'c') for i, suffix in enumerate(('jpg', 'JPEG', 'png', 'bmp'))
]
Member = tuple[str, bytes]


def images(root: Path, side: int = 16) -> list[Member]:
    """Write images of every kind, with what is passed over, and return them."""
    for number, name in enumerate(NAMES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / name)
    (root / 'a' / 'notes.txt').write_text('x')
    (root / '__MACOSX' / 'a').mkdir(parents=True)
    shutil.copy(root / 'a' / '0.jpg', root / '__MACOSX' / 'a' / '._0.jpg')
    paths = sorted(path for path in root.rglob('*') if path.is_file())
    return [(path.relative_to(root).as_posix(), path.read_bytes()) for path in paths]


def pack_zip(path: Path, members: list[Member], method: int = zipfile.ZIP_STORED, wide: bool = False) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(path, 'w', method) as file:
        warnings.simplefilter('ignore')  # of names that are there twice
        for name, data in members:
            with file.open(zipfile.ZipInfo(name), 'w', force_zip64=wide) if wide else io.BytesIO() as opened:
                opened.write(data)
            if not wide:
                file.writestr(name, data)
    return path


def pack_tar(path: Path, members: list[Member], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, 'w', format=form) as file:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return path


class Stream(io.RawIOBase):
    """A file without positions: a zip to it has the sizes of a member behind its data."""

    def __init__(self, path: Path) -> None:
        self.file = open(path, 'wb')  # noqa: SIM115

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return self.file.write(data)

    def close(self) -> None:
        self.file.close()


def streamed(path: Path, members: list[Member]) -> Path:
    with Stream(path) as stream:
        pack_zip(stream, members, zipfile.ZIP_DEFLATED)
    return path


def with_map(path: Path, members: list[Member]) -> Path:
    names = [name for name, _ in members if name in NAMES]
    labels = {label: number for number, label in enumerate(sorted({name.split('/')[0] for name in names}))}
    lines = [f'{name}\t{labels[name.split("/")[0]]}\n' for name in names]
    (path.parent / 'x_map.txt').write_bytes(''.join(lines).encode())
    return pack_zip(path, members)


def flat_map(path: Path, members: list[Member]) -> Path:
    path = with_map(path, members)
    table = path.parent / 'x_map.txt'
    table.write_text(''.join(f'x.zip@/{line}\n' for line in table.read_text().splitlines()))
    return path


def nested(path: Path, members: list[Member]) -> Path:
    pack_zip(path, [(f'data/train/{name}', data) for name, data in members] + [('data/read.jpg', b'')])
    return Path(f'{path}@/data/train')


FORMS: dict[str, Callable[[Path, list[Member]], Path]] = {
    'stored': lambda root, members: pack_zip(root / 'x.zip', members),
    'deflated': lambda root, members: pack_zip(root / 'x.ZIP', members, zipfile.ZIP_DEFLATED),
    'zip64': lambda root, members: pack_zip(root / 'x.zip', members, wide=True),
    'streamed': lambda root, members: streamed(root / 'x.zip', members),
    'with folders': lambda root, members: pack_zip(root / 'x.zip', [('a/', b''), ('c/', b''), *reversed(members)]),
    'map': lambda root, members: with_map(root / 'x.zip', members),
    'map with prefix': lambda root, members: flat_map(root / 'x.zip', members),
    'folder inside': lambda root, members: nested(root / 'x.zip', members),
    'tar': lambda root, members: pack_tar(root / 'x.tar', members),
    'tar of gnu': lambda root, members: pack_tar(root / 'x.tar', members, tarfile.GNU_FORMAT),
    'tar of .': lambda root, members: pack_tar(root / 'x.tar', [(f'./{name}', data) for name, data in members]),
    'tars': lambda root, members: [
        pack_tar(root / f'x-00{number}.tar', members[number * 5 : number * 5 + 5]) for number in range(3)
    ] and root / 'x-{000..002}.tar',
    'some tars': lambda root, members: [
        pack_tar(root / f'x-{number}.tar', members[number::3]) for number in range(3)
    ] and root / 'x-*.tar',
}  # fmt: skip


def batches(dataset: ImageFolder, workers: int = 0, context: str | None = None) -> list[dict]:
    sampler = EpochSampler(dataset, seed=3)
    loader = DataLoader(
        dataset, 4, sampler=sampler, num_workers=workers, collate_fn=collate, multiprocessing_context=context
    )
    return list(loader)


def same(ours: list[dict], theirs: list[dict]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(x['index'], y['index'])
        and torch.equal(x['label'], y['label'])
        and all(map(torch.equal, x['inputs'], y['inputs']))
        for x, y in zip(ours, theirs, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize('form', FORMS)
def test_all_forms_give_the_batches_of_the_folder(tmp_path: Path, form: str) -> None:
    members = images(tmp_path / 'x')
    folder = ImageFolder(tmp_path / 'x', pipeline=VIEWS)
    packed = ImageFolder(FORMS[form](tmp_path, members), pipeline=VIEWS)
    assert packed.paths.tolist() == folder.paths.tolist() == sorted(name.encode() for name in NAMES)
    assert packed.classes == folder.classes
    assert same(batches(folder), batches(packed))
    assert difference(fingerprint(folder), fingerprint(packed), packed) is None
    again = pickle.loads(pickle.dumps(packed))
    assert torch.equal(again.load(5)[0], folder.load(5)[0])


def test_numbers_of_classes(tmp_path: Path) -> None:
    members = images(tmp_path / 'x')
    path = pack_zip(tmp_path / 'x.zip', members)
    assert ImageFolder(path, labelled=False).labels is None
    (tmp_path / 'list.txt').write_text('c\na\n')
    chosen = ImageFolder(path, class_list=tmp_path / 'list.txt')
    assert (chosen.classes, chosen.labels.tolist()) == (('a', 'c'), [0] * 4 + [1] * 4)
    few = pack_tar(tmp_path / 'few.tar', [member for member in members if member[0].startswith(('b', 'c'))])
    assert ImageFolder(few, class_list=path).labels.tolist() == [1] * 4 + [2] * 4
    assert Subset(ImageFolder(path), per_class=1).labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize('top', ['', 'in'])
@pytest.mark.parametrize('pack', ['zip', 'tar'])
def test_train_and_val_in_one_archive(tmp_path: Path, top: str, pack: str) -> None:
    """The oracle is the same in folders."""
    members = images(tmp_path / 'x')
    for split, chosen in dict(train='abc', val='bc').items():
        for name, data in members:
            if name[0] in chosen:
                (tmp_path / 'f' / top / split / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / 'f' / top / split / name).write_bytes(data)
    files = sorted(path for path in (tmp_path / 'f').rglob('*') if path.is_file())
    content = [(path.relative_to(tmp_path / 'f').as_posix(), path.read_bytes()) for path in files]
    path = (pack_zip if pack == 'zip' else pack_tar)(tmp_path / f'x.{pack}', content)
    root, folder = f'{path}@/{top}'.rstrip('/'), tmp_path / 'f' / top
    for split in ('train', 'val'):
        packed, expected = ImageNet(root, split), ImageNet(folder, split)
        assert (packed.classes, packed.paths.tolist()) == (expected.classes, expected.paths.tolist())
        assert packed.labels.tolist() == expected.labels.tolist()
    assert packed.labels.tolist() == [1] * 4 + [2] * 4
    listed = ImageFolder(f'{root}/val', class_list=f'{root}/train')
    assert listed.labels.tolist() == ImageFolder(folder / 'val', class_list=f'{root}/train').labels.tolist()
    assert (listed.classes, listed.labels.tolist()) == (packed.classes, packed.labels.tolist())
    with pytest.raises(FileNotFoundError, match=r'dataset\.class_list: .*/none has no sub-folders.*Correct the path'):
        ImageFolder(f'{root}/val', class_list=f'{root}/none')
    with pytest.raises(FileNotFoundError, match=r'dataset\.class_list: there is no folder .*y\.zip@/train'):
        ImageFolder(f'{root}/val', class_list=tmp_path / 'y.zip@/train')


@pytest.mark.parametrize('system', [0, 3])
def test_backslashes_of_windows_are_folders(tmp_path: Path, system: int) -> None:
    members = images(tmp_path / 'x')
    path = tmp_path / 'w.zip'
    with zipfile.ZipFile(path, 'w') as file:
        for name, data in [('a/', b''), *members]:
            entry = zipfile.ZipInfo(name)
            entry.filename, entry.create_system = (
                name.replace('/', '\\'),
                system,
            )  # ZipInfo itself makes slashes of them
            file.writestr(entry, data)
    folder, packed = ImageFolder(tmp_path / 'x', pipeline=VIEWS), ImageFolder(path, pipeline=VIEWS)
    assert (packed.classes, packed.paths.tolist()) == (folder.classes, folder.paths.tolist())
    assert same(batches(folder), batches(packed))
    assert ImageFolder(f'{path}@/a').paths.tolist() == [name.encode()[2:] for name in NAMES[:4]]


@pytest.mark.parametrize('slash', ['a/', 'a/0.jpg', '__MACOSX/x'])
def test_backslashes_beside_slashes_are_folders_or_refused(tmp_path: Path, slash: str) -> None:
    """The images were without classes."""
    members = images(tmp_path / 'x')

    def packed(system: int, above: str = '') -> Path:
        path = tmp_path / f'{system}{len(above)}.zip'
        with zipfile.ZipFile(path, 'w') as file:
            for name, data in [('a/', b''), *members]:
                entry = zipfile.ZipInfo(name)
                entry.filename, entry.create_system = (
                    above + (name if name == slash else name.replace('/', '\\')),
                    system,
                )
                file.writestr(entry, data)
            if slash == '__MACOSX/x':
                file.writestr(slash, b'')
        return path

    folder = ImageFolder(tmp_path / 'x')
    for root in (packed(0), f'{packed(0, "in/")}@/in'):
        found = ImageFolder(root)
        assert found.labels is not None
        assert (found.classes, found.labels.tolist()) == (folder.classes, folder.labels.tolist())
        assert found.paths.tolist() == folder.paths.tolist()
    for root in (packed(3), f'{packed(3, "in/")}@/in'):
        with pytest.raises(
            ValueError, match=r'dataset\.data_root: .* in .*\.zip.* has a backslash, and other names have'
        ):
            ImageFolder(root)


def test_a_backslash_may_be_part_of_a_name(tmp_path: Path) -> None:
    """Where names have slashes; and as half of a letter of Shift-JIS."""
    data = images(tmp_path / 'x')[0][1]
    path = pack_zip(tmp_path / 'x.zip', [('a/1\\2.jpg', data), ('b/1.jpg', data)])
    assert ImageFolder(path).paths.tolist() == [b'a/1\\2.jpg', b'b/1.jpg']
    letter = 'ソ.jpg'.encode('shift-jis')
    path = pack_zip(tmp_path / 'y.zip', [('aa.jpg', data)])
    path.write_bytes(path.read_bytes().replace(b'aa.jpg', letter))
    assert ImageFolder(path).paths.tolist() == [letter]


def test_the_published_zipped_imagenet(tmp_path: Path) -> None:
    """``train.zip`` of class folders, a flat ``val.zip``, and a map for each; the order is that of the map."""
    members = [(name, data) for name, data in images(tmp_path / 'x') if name in NAMES]
    pack_zip(tmp_path / 'train.zip', members)
    pack_zip(tmp_path / 'val.zip', [(f'ILSVRC2012_val_{i:08d}.JPEG', data) for i, (_, data) in enumerate(members)])
    order = [7, 0, 11]
    lines = [f'{members[i][0]}\t{"abc".index(members[i][0][0])}\n' for i in order]
    (tmp_path / 'train_map.txt').write_text(''.join(lines))
    (tmp_path / 'val_map.txt').write_text('ILSVRC2012_val_00000003.JPEG\t2\nILSVRC2012_val_00000001.JPEG\t0\r\n')
    train, val = ImageNet(tmp_path), ImageNet(tmp_path, 'val')
    assert [text(path) for path in train.paths] == [members[i][0] for i in order]
    assert (train.classes, train.labels.tolist()) == (('a', 'b é', 'c'), [1, 0, 2])
    assert (val.classes, val.labels.tolist(), val.num_classes) == (None, [2, 0], 3)
    assert torch.equal(val.load(0)[0], ImageFolder(tmp_path / 'x').load(3)[0])


def test_shards_of_webdataset(tmp_path: Path) -> None:
    data = [content for name, content in images(tmp_path / 'x') if name.endswith('.jpg')]
    shards = [
        [('0.jpg', data[1]), ('0.cls', b'7\n'), ('1.jpg', data[2]), ('1.json', json.dumps(dict(label=2)).encode())],
        [('2.json', b'{"x": [1]}'), ('2.cls', b'0'), ('2.jpg', data[3])],
    ]
    for number, members in enumerate(shards):
        pack_tar(tmp_path / f's-{number}.tar', members)
    for labelled in (None, True):
        dataset = ImageFolder(tmp_path / 's-{0..1}.tar', labelled)
        assert ([text(path) for path in dataset.paths], dataset.labels.tolist()) == (
            ['0.jpg', '1.jpg', '2.jpg'], [7, 2, 0])  # fmt: skip
    pack_tar(tmp_path / 't.tar', [('0.jpg', data[1]), ('0.cls', b'-1')])
    with pytest.raises(ValueError, match=r'0\.jpg has the label -1; expected the number of a class, from 0'):
        ImageFolder(tmp_path / 't.tar')
    pack_tar(tmp_path / 'u.tar', [('0.jpg', data[1]), ('0.cls', b'1'), ('1.jpg', data[2])])
    with pytest.raises(ValueError, match=r'u\.tar@/1\.jpg has no \.cls or \.json .* as 1 of 2 images do'):
        ImageFolder(tmp_path / 'u.tar')
    for name in ('t.tar', 'u.tar'):
        assert ImageFolder(tmp_path / name, labelled=False).labels is None
    with pytest.raises(
        FileNotFoundError, match=r'stands for 3 files, of which 1 do not exist, the first is .*s-2\.tar'
    ):
        ImageFolder(tmp_path / 's-{0..2}.tar')


@pytest.mark.slow
@pytest.mark.parametrize(('form', 'context'), [('stored', 'fork'), ('deflated', 'spawn'), ('tars', 'forkserver')])
def test_workers_read_for_themselves(tmp_path: Path, form: str, context: str) -> None:
    members = images(tmp_path / 'x')
    folder = ImageFolder(tmp_path / 'x', pipeline=VIEWS)
    packed = ImageFolder(FORMS[form](tmp_path, members), pipeline=VIEWS)
    packed.load(0)  # the archive is open before there are workers
    assert same(batches(folder), batches(packed, 2, context))


@pytest.mark.parametrize('form', ['stored', 'deflated', 'tar'])
def test_threads_read_for_themselves(tmp_path: Path, form: str) -> None:
    members = images(tmp_path / 'x')
    packed = ImageFolder(FORMS[form](tmp_path, members))
    expected = {name.encode(): data for name, data in members}
    wrong: list[int] = []

    def read() -> None:
        wrong.extend(i for _ in range(50) for i in range(12) if packed.files.read(i) != expected[packed.paths[i]])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    if os.path.isdir('/proc/self/fd'):
        names = [os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd') if int(fd) > 2
                 and os.path.exists(f'/proc/self/fd/{fd}')]  # fmt: skip
        assert sum(name.startswith(str(tmp_path)) for name in names) == 1
        del packed
        gc.collect()
        names = [os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd') if int(fd) > 2
                 and os.path.exists(f'/proc/self/fd/{fd}')]  # fmt: skip
        assert not any(name.startswith(str(tmp_path)) for name in names)


def test_more_archives_than_can_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = images(tmp_path / 'x')
    packed = ImageFolder(FORMS['some tars'](tmp_path, members), pipeline=VIEWS)
    monkeypatch.setattr(archive, 'OPEN', 2)
    assert same(batches(ImageFolder(tmp_path / 'x', pipeline=VIEWS)), batches(packed))
    assert not packed.files._open


def png(side: int = 4) -> bytes:
    file = io.BytesIO()
    Image.new('RGB', (side, side)).save(file, 'PNG')
    return file.getvalue()


def linked(path: Path, kind: bytes) -> Path:
    with tarfile.open(path, 'w') as file:
        entry = tarfile.TarInfo('a/1.png')
        entry.type, entry.linkname = kind, 'passwd'
        file.addfile(entry)
    return path


def zip_link(path: Path) -> Path:
    entry = zipfile.ZipInfo('a/1.png')
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr(entry, '/etc/passwd')
    return path


def patched(path: Path, *changes: tuple[bytes, int, bytes]) -> Path:
    """Overwrite bytes at an offset from the last place of others."""
    data = bytearray(path.read_bytes())
    for anchor, offset, value in changes:
        start = data.rindex(anchor) + offset
        data[start : start + len(value)] = value
    path.write_bytes(data)
    return path


def cut(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


CENTRAL = b'PK\x01\x02'
OUTSIDE = r'has a member named {name}, which does not lie in the archive'
HARM: dict[str, tuple[Callable[[Path], Path], str]] = {
    **{f'zip {name}': (lambda root, name=name: pack_zip(root / 'x.zip', [('a/1.png', png()), (name, png())]),
                       'does not lie in the archive')
       for name in ('../1.png', 'a/../../1.png', '/1.png', 'a/..', '..\\1.png', 'C:\\1.png')},
    **{f'tar {name}': (lambda root, name=name: pack_tar(root / 'x.tar', [('a/1.png', png()), (name, png())]),
                       'does not lie in the archive') for name in ('../1.png', '/1.png', 'a/../../1.txt')},
    'twice in a zip': (lambda root: pack_zip(root / 'x.zip', [('a/1.png', png()), ('a/1.png', png(5))]),
                       r'The name a/1\.png is there twice'),
    'twice in a tar': (lambda root: pack_tar(root / 'x.tar', [('a/1.png', png()), ('./a//1.png', png(5))]),
                       r'The name a/1\.png is there twice'),
    'symbolic link': (lambda root: linked(root / 'x.tar', tarfile.SYMTYPE), r'a/1\.png in .* is a link'),
    'hard link': (lambda root: linked(root / 'x.tar', tarfile.LNKTYPE), r'a/1\.png in .* is a link'),
    'link in a zip': (lambda root: zip_link(root / 'x.zip'), r'a/1\.png in .* is a link'),
    'device': (lambda root: linked(root / 'x.tar', tarfile.CHRTYPE), 'holds no image .*but no file'),
    'bomb': (lambda root: pack_zip(root / 'x.zip', [('a/1.png', bytes(2**22))], zipfile.ZIP_DEFLATED),
             r'a/1\.png .* bytes that are to become 4194304'),
    'lying size': (lambda root: patched(pack_zip(root / 'x.zip', [('a/1.png', png())]),
                                        (CENTRAL, 24, struct.pack('<I', 2**31))), 'that are to become 2147483648'),
    'over one another': (lambda root: patched(pack_zip(root / 'x.zip', [('a/1.png', png()), ('a/2.png', png())]),
                                              (CENTRAL, 42, struct.pack('<I', 10))), 'reaches into the next member'),
    'bzip2': (lambda root: pack_zip(root / 'x.zip', [('a/1.png', png())], zipfile.ZIP_BZIP2), 'packed by method 12'),
    'encrypted': (lambda root: patched(pack_zip(root / 'x.zip', [('a/1.png', png())]), (CENTRAL, 8, b'\1')),
                  'is encrypted'),
    'cut zip': (lambda root: cut(pack_zip(root / 'x.zip', [('a/1.png', png())]), 80), 'no whole zip'),
    'cut tar': (lambda root: cut(pack_tar(root / 'x.tar', [('a/1.png', png())] * 3), 1100), 'no whole tar'),
    'tar cut between members': (lambda root: cut(pack_tar(root / 'x.tar', [('a/1.png', png()), ('b/1.png', png())]),
                                                 1024), 'no whole tar.*it has no end'),
    'damaged header': (lambda root: patched(pack_tar(root / 'x.tar', [('a/1.png', png()), ('b/1.png', png()), (
        'c/1.png', png())]), (b'b/1.png', 100, b'junk!junk!')), 'no whole tar.*damaged part'),
    'no archive': (lambda root: (root / 'x.zip').write_text('hello') and root / 'x.zip', 'no whole tar, and no zip'),
    'empty zip': (lambda root: pack_zip(root / 'x.zip', []), r'the archive .*x\.zip holds no image'),
    'empty tar': (lambda root: pack_tar(root / 'x.tar', []), r'the archive .*x\.tar holds no image'),
    'empty file': (lambda root: (root / 'x.tar').touch() or root / 'x.tar', 'no whole tar, and no zip'),
    'no image': (lambda root: pack_zip(root / 'x.zip', [('a/1.txt', b'')]), r'holds no image .*passed over: 1 \.txt'),
    'no such file': (lambda root: root / 'x.zip', r'there is no folder .*x\.zip and no such archive'),
    'no such folder inside': (lambda root: Path(f'{pack_zip(root / "x.zip", [("a/1.png", png())])}@/b'), 'no image'),
}  # fmt: skip


@pytest.mark.parametrize('harm', HARM)
def test_archives_that_are_refused(tmp_path: Path, harm: str) -> None:
    make, message = HARM[harm]
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        ImageFolder(make(tmp_path))
    assert str(caught.value).startswith('dataset.data_root: ')


@pytest.mark.parametrize('suffix', ['gz', 'bz2', 'xz'])
def test_packed_tars_are_refused_whatever_their_name(tmp_path: Path, suffix: str) -> None:
    for name in (f'x.tar.{suffix}', 'x.tar'):
        with tarfile.open(tmp_path / name, f'w:{suffix}') as file:
            file.addfile(tarfile.TarInfo('a/1.png'))
        with pytest.raises(ValueError, match=r'is packed as a whole .* Unpack it, .* \(tar -cf\) or a zip \(tools'):
            ImageFolder(tmp_path / name)


MAPS = {
    'missing': (b'a/1.png\t0\na/9.png\t1\n', r'1 of the 2 images of .*x_map\.txt are not in .*x\.zip.*: a/9\.png'),
    'negative': (b'a/1.png\t0\na/2.png\t-1\n', r'line 2 of .* gives a/2\.png the label -1; labels are'),
    'no tab': (b'a/1.png 0\n', r'line 1 of .* is a/1\.png 0; expected NAME, a tab'),
    'no number': (b'\n a/1.png\tcat\n', r'line 2 of .* expected NAME, a tab'),
    'float': (b'a/1.png\t1.5\n', 'expected NAME, a tab'),
    'twice': (b'a/1.png\t0\n./a/1.png\t0\n', r'line 2 of .* names a/1\.png a second time'),
    'no image': (b'a/x.txt\t0\n', r'1 of the 1 images .* or are no images: a/x\.txt'),
    'empty': (b'\n', 'has no lines'),
}


@pytest.mark.parametrize('fault', MAPS)
def test_maps_that_are_refused(tmp_path: Path, fault: str) -> None:
    content, message = MAPS[fault]
    path = pack_zip(tmp_path / 'x.zip', [('a/1.png', png()), ('a/2.png', png()), ('a/x.txt', b'')])
    (tmp_path / 'x_map.txt').write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        ImageFolder(path)
    assert str(caught.value).startswith('dataset.map_file: ')
    if fault == 'negative':  # as the message advises
        assert len(ImageFolder(path, labelled=False)) == 2
    (tmp_path / 'x_map.txt').unlink()
    assert len(ImageFolder(path)) == 2


def test_a_map_for_a_folder_and_what_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(scan, 'print_log', lambda message, logger: lines.append(message))
    images(tmp_path / 'x')
    (tmp_path / 'map.txt').write_bytes(b'\xef\xbb\xbfc/1.JPEG\t4\r\na/0.jpg\t0\r\n')
    dataset = ImageFolder(tmp_path / 'x', map_file=tmp_path / 'map.txt')
    assert (dataset.paths.tolist(), dataset.labels.tolist()) == ([b'c/1.JPEG', b'a/0.jpg'], [4, 0])
    assert (dataset.classes, dataset.num_classes) == (None, 5)
    assert '10 not in the map' in lines[0]
    assert ImageFolder(tmp_path / 'x', False, map_file=tmp_path / 'map.txt').labels is None
    with pytest.raises(FileNotFoundError, match=r'dataset\.map_file: there is no file .*none\.txt'):
        ImageFolder(tmp_path / 'x', map_file=tmp_path / 'none.txt')
    with pytest.raises(ValueError, match=r'map_file and dataset\.class_list both'):
        ImageFolder(tmp_path / 'x', map_file=tmp_path / 'map.txt', class_list=tmp_path / 'x')


def test_files_that_change_or_vanish_in_an_epoch(tmp_path: Path) -> None:
    members = images(tmp_path / 'x')
    folder = ImageFolder(tmp_path / 'x')
    (tmp_path / 'x' / 'a' / '0.jpg').unlink()
    with pytest.raises(ValueError, match=r'a/0\.jpg cannot be read \(No such file or directory\)\. Put it back'):
        folder.load(0)
    for pack in (pack_zip, pack_tar):
        path = pack(tmp_path / 'x.bin', members)
        packed = ImageFolder(path)
        expected = packed.load(1)[0]
        path.unlink()  # the process has it open
        assert torch.equal(packed.load(1)[0], expected)
        other = pickle.loads(pickle.dumps(packed))  # a worker that begins later
        with pytest.raises(ValueError, match=r'x\.bin@/a/1\.JPEG cannot be read: No such file'):
            other.load(1)
        path.write_bytes(bytes(100))
        with pytest.raises(ValueError, match='the archive has changed since the run began'):
            other.load(1)
    path = pack_zip(tmp_path / 'y.zip', members, zipfile.ZIP_DEFLATED)
    packed = ImageFolder(path)
    packed.load(1)
    cut(path, 700)
    with pytest.raises(ValueError, match=r'y\.zip@/c/3\.bmp cannot be read: .*Restore the archive'):
        packed.load(11)
    pack_zip(path, [('a/1.png', bytes(3000))] * 3)
    with pytest.raises(ValueError, match=r'cannot be read: '):
        packed.load(7)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    for number, data in enumerate((b'', b'hello', b'\xff\xd8\xff\xe0' + bytes(30))):
        path = pack_zip(tmp_path / f'{number}.zip', [('a/1.jpg', data)])
        with pytest.raises(ValueError, match=rf'The image .*{number}\.zip@/a/1\.jpg cannot be read'):
            ImageFolder(path).load(0)


def test_the_directory_of_a_large_archive_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('UNMIX_HOME', str(tmp_path / 'home'))
    members = images(tmp_path / 'x')
    path = pack_tar(tmp_path / 'x.tar', members)
    ImageFolder(path)
    assert not (tmp_path / 'home').exists()  # a small one
    monkeypatch.setattr(archive_directory, 'KEPT', 3)
    first = ImageFolder(path)
    (kept,) = (tmp_path / 'home' / 'archives').iterdir()
    monkeypatch.setattr(archive_directory, '_read_tar', None)
    second = ImageFolder(path)
    assert second.paths.tolist() == first.paths.tolist()
    assert torch.equal(second.load(3)[0], first.load(3)[0])
    monkeypatch.undo()
    monkeypatch.setenv('UNMIX_HOME', str(tmp_path / 'home'))
    monkeypatch.setattr(archive_directory, 'KEPT', 3)
    kept.write_bytes(b'damaged')
    assert len(ImageFolder(path)) == 12
    pack_tar(path, members[:3])  # another archive of the name
    assert len(ImageFolder(path, labelled=False)) == 2
