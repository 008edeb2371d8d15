"""Which files of a folder are images: hidden ones, links, special files; what is said of the others; class numbers."""

import os
import re
import shutil
import socket
import warnings
from pathlib import Path

import pytest
from mmengine.logging import MMLogger
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from unmix.datasets import ImageFolder, ImageNet, TinyImageNet, decode, scan
from unmix.utils.names import text


def write(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (4, 4)).save(path, 'PNG')


def found(dataset: ImageFolder) -> list[str]:
    return [text(path) for path in dataset.paths.tolist()]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lines of the log, and warnings."""
    lines: list[str] = []
    monkeypatch.setattr(scan, 'print_log', lambda message, logger: lines.append(message))
    monkeypatch.setattr(warnings, 'warn', lambda message, stacklevel: lines.append(f'warning: {message}'))
    return lines


HIDDEN = ('.git', '.ipynb_checkpoints', '__MACOSX', '@eaDir', 'lost+found', '#recycle', '$RECYCLE.BIN', '.Trash-1000')


def test_hidden_files_and_folders_of_systems_are_no_data(tmp_path: Path, said: list[str]) -> None:
    write(tmp_path / 'a' / '1.png', tmp_path / 'b' / '2.png', tmp_path / '.hidden.png', tmp_path / 'a' / '._1.png')
    for name in HIDDEN:
        write(tmp_path / name / 'x.png', tmp_path / 'a' / name / 'x.png')
    for name in ('.DS_Store', 'Thumbs.db', 'desktop.ini', 'notes.txt', 'png'):
        (tmp_path / 'b' / name).write_text('')
    dataset = ImageFolder(tmp_path)
    assert (found(dataset), dataset.classes) == (['a/1.png', 'b/2.png'], ('a', 'b'))
    assert said == [
        f'{tmp_path}: 2 images (2 .png), 2 classes; passed over: {2 * len(HIDDEN) + 3} hidden, 1 .db, 1 .ini, 1 .txt, '
        '1 without suffix.'
    ]
    assert found(ImageFolder(tmp_path, labelled=False)) == ['a/1.png', 'b/2.png']
    (tmp_path / 'list.txt').write_text('a\n.git\n')  # a hidden folder that is named is meant
    assert found(ImageFolder(tmp_path, class_list=tmp_path / 'list.txt')) == ['.git/x.png', 'a/1.png']
    hidden = tmp_path / '.cache' / 'images'  # what lies above the folder does not count
    write(hidden / '1.png')
    assert found(ImageFolder(hidden)) == ['1.png']


def test_each_real_file_counts_once_and_a_scan_ends(tmp_path: Path, said: list[str]) -> None:
    root, store = tmp_path / 'root', tmp_path / 'store'
    write(
        root / 'a' / '1.png', root / 'b' / '2.png', store / 'c' / '3.png', store / 'c' / 'd' / '4.png', store / 'e.png'
    )
    links = {
        'a/self': '.', 'a/up': '..', 'a/twice': '../a', 'everything': tmp_path, 'slash': '/',  # loops
        'c': store / 'c', 'cc': store / 'c', 'c/d2': store / 'c' / 'd',  # other folders
        'a/2.png': '../b/2.png', 'a/5.png': store / 'e.png', 'b/5.png': store / 'e.png', 'b/6.png': '5.png',
        'b/chain.png': '../a/2.png', 'b/none.png': 'nowhere', 'b/o.png': 'o.png', 'b/notes.txt': store / 'e.png',
        'b/name': store / 'e.png',
    }  # fmt: skip
    for name, target in links.items():
        os.symlink(target, root / name)
    dataset = ImageFolder(root, labelled=False)
    assert found(dataset) == ['a/1.png', 'a/5.png', 'b/2.png', 'c/3.png', 'c/d/4.png']
    assert [len(dataset[i]) for i in range(5)] == [2] * 5
    (line,) = said
    for part in ('7 links to folders that are read already', '4 links to files that are counted already'):
        assert part in line
    assert '2 links to nothing' in line
    with pytest.raises(FileNotFoundError, match=r'no image in the class folders cc, everything, slash .*7 links to'):
        ImageFolder(root, labelled=True)


def test_a_subset_made_of_links(tmp_path: Path) -> None:
    """ImageNet's folders, and files, linked to where they lie; two lists of classes use the same files."""
    for wnid in ('n01', 'n02', 'n03'):
        write(*(tmp_path / 'whole' / 'train' / wnid / f'{wnid}_{i}.JPEG' for i in range(3)))
    part = tmp_path / 'part'
    part.mkdir()
    for wnid in ('n03', 'n01'):
        os.symlink(tmp_path / 'whole' / 'train' / wnid, part / wnid)
    dataset = ImageFolder(part)
    assert (dataset.classes, dataset.labels.tolist()) == (('n01', 'n03'), [0] * 3 + [1] * 3)
    assert found(dataset)[3] == 'n03/n03_0.JPEG'
    few = tmp_path / 'few'
    for name in ('n01/n01_2.JPEG', 'n03/n03_0.JPEG'):
        (few / name).parent.mkdir(parents=True)
        os.symlink(tmp_path / 'whole' / 'train' / name, few / name)
    assert found(ImageFolder(few)) == ['n01/n01_2.JPEG', 'n03/n03_0.JPEG']
    inside = tmp_path / 'inside'  # hidden files, or files of other names, count at the link
    write(inside / '.store' / 'x.png', inside / 'blobs' / '5f2a')
    os.symlink('.store', inside / 'a')
    os.symlink('blobs/5f2a', inside / 'y.png')
    assert found(ImageFolder(inside, labelled=False)) == ['y.png', 'a/x.png']


def test_special_files_and_unreadable_folders_are_passed_over(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / '1.png', tmp_path / 'd.png' / '2.png', tmp_path / 'locked' / '3.png')
    os.mkfifo(tmp_path / 'fifo.png')
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind('s.jpg')
    real = os.scandir

    def scandir(path: bytes) -> object:
        if path.rstrip(b'/').endswith(b'locked'):
            raise PermissionError(13, 'Permission denied')
        return real(path)

    monkeypatch.setattr(os, 'scandir', scandir)
    assert found(ImageFolder(tmp_path)) == ['1.png']
    for part in (
        '2 named like an image, but no file',
        '1 folders named like an image',
        '1 folders that cannot be read',
    ):
        assert part in said[0]
    assert said[1:] == [f'warning: {tmp_path}: 1 folders cannot be read: locked.']
    with pytest.raises(ValueError, match=r'locked cannot be read \(Permission denied\)'):
        ImageFolder(tmp_path / 'locked')


def test_folders_whose_first_image_may_not_be_opened_are_named(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The superuser may open all, so the answer of the system is replaced; one question for each folder."""
    write(*(tmp_path / place / f'{i}.png' for place in ('a', 'b') for i in range(3)))
    asked: list[bytes] = []

    def access(path: bytes, mode: int) -> bool:
        asked.append(path)
        return not path.endswith(b'b/0.png')

    monkeypatch.setattr(os, 'access', access)
    assert len(ImageFolder(tmp_path)) == 6
    assert sorted(asked) == [os.fsencode(tmp_path / place / '0.png') for place in ('a', 'b')]
    assert said[1:] == [
        f'warning: {tmp_path}: the first image of 1 folders may not be opened: b/0.png; "unmix doctor {tmp_path}" '
        'lists all such images.'
    ]


def test_formats(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What PIL reads is found, what it does not is named with what reads it."""
    frames = [Image.new('RGB', (4, 4), colour) for colour in ('red', 'lime', 'blue')]
    for suffix in ('gif', 'tif', 'webp', 'apng'):
        options = dict(lossless=True) if suffix == 'webp' else {}
        frames[0].save(tmp_path / f'x.{suffix}', save_all=True, append_images=frames[1:], **options)
    for suffix in ('jp2', 'jfif', 'pbm', 'tga', 'BMP'):
        frames[0].save(tmp_path / f'y.{suffix}')
    for name in ('a.heic', 'b.HEIC', 'c.svg', 'd.nef'):
        (tmp_path / name).write_text('')
    monkeypatch.setattr(scan, 'readable_suffixes', lambda: decode.readable_suffixes() - {'.heic'})
    dataset = ImageFolder(tmp_path)
    assert len(dataset) == 9
    assert all(dataset[i]['inputs'].shape == (3, 4, 4) for i in range(9))
    for name in ('x.apng', 'x.gif', 'x.tif', 'x.webp'):
        assert dataset[found(dataset).index(name)]['inputs'][:, 0, 0].tolist() == [255, 0, 0]  # the first
    assert 'passed over: 2 .heic, 1 .nef, 1 .svg.' in said[0]
    for part in (
        '2 .heic .*"pip install .unmix.heif.."',
        r'1 \.svg .*CairoSVG',
        r'1 \.nef .*rawpy',
        'the first is read',
    ):
        assert re.search(part, said[1])
    assert 'of a .apng or .gif or .tif or .webp with several frames or pages' in said[1]
    assert len(said) == 2
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    (tmp_path / 'a.svg').write_text('')
    with pytest.raises(FileNotFoundError, match=r'holds no image \(.*\.gif.*\); passed over: 1 \.svg\.'):
        ImageFolder(tmp_path)


class Scans(Dataset[int]):
    def __init__(self, root: Path) -> None:
        self.root = root

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return len(ImageFolder(self.root))


def test_a_scan_is_said_once_on_rank_zero_outside_of_workers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    MMLogger.get_current_instance()
    write(tmp_path / 'x.png')
    for _ in range(2):
        assert next(iter(DataLoader(Scans(tmp_path), num_workers=1))).item() == 1
    assert str(tmp_path) not in capfd.readouterr().out
    monkeypatch.setattr(scan, 'get_rank', lambda: 1)
    ImageFolder(tmp_path)
    monkeypatch.undo()
    calls: list[str] = []
    monkeypatch.setattr(scan, 'print_log', lambda message, logger: calls.append(message))
    for _ in range(2):
        ImageFolder(tmp_path)
    assert calls == [f'{tmp_path}: 1 images (1 .png), no labels; passed over: nothing.']


def test_class_numbers_are_those_of_the_list_or_of_the_training_set(tmp_path: Path, said: list[str]) -> None:
    train, test = tmp_path / 'train', tmp_path / 'test'
    write(*(train / c / '1.png' for c in 'abcd'), *(test / c / '1.png' for c in 'acd'))
    (test / 'b').mkdir()
    names = tmp_path / 'list.txt'
    names.write_text('d\nb\na\nc\n')
    with pytest.raises(FileNotFoundError, match=r'class folders b of .*dataset\.class_list to the folder of those'):
        ImageFolder(test)
    for _ in range(2):  # an empty folder, then none
        for classes in (names, train):
            dataset = ImageFolder(test, class_list=classes)
            assert (dataset.classes, dataset.labels.tolist()) == (('a', 'b', 'c', 'd'), [0, 2, 3])
        shutil.rmtree(test / 'b', ignore_errors=True)
    assert f'warning: {test}: 1 of the 4 classes have no image: b.' in said
    with pytest.raises(FileNotFoundError, match='holds no image'):
        ImageFolder(test, class_list=tmp_path)
    names.write_text('c\n')
    unlabelled = ImageFolder(test, labelled=False, class_list=names)
    assert (found(unlabelled), unlabelled.labels, unlabelled.classes) == (['c/1.png'], None, None)
    names.write_text('# none\n\n')
    with pytest.raises(ValueError, match=r'class_list: .*list\.txt has no names'):
        ImageFolder(test, class_list=names)


def test_numbers_of_val_are_those_of_train(tmp_path: Path) -> None:
    write(
        *(tmp_path / 'train' / c / 'images' / '1.png' for c in 'abc'), *(tmp_path / 'val' / c / '1.png' for c in 'ac')
    )
    for dataset in (ImageNet(tmp_path, 'val'), TinyImageNet(tmp_path, 'test')):
        assert (dataset.classes, dataset.labels.tolist()) == (('a', 'b', 'c'), [0, 2])
    write(tmp_path / 'val' / 'x' / '1.png')  # not a class of train: these are other data
    assert ImageNet(tmp_path, 'val').classes == ('a', 'c', 'x')
    shutil.rmtree(tmp_path / 'val')
    write(tmp_path / 'val' / 'images' / '1.png')
    (tmp_path / 'val' / 'val_annotations.txt').write_bytes(b'1.png\tc\t0\t0\t1\t1\r\n')
    dataset = TinyImageNet(tmp_path, 'test')
    assert (dataset.classes, dataset.labels.tolist()) == (('a', 'b', 'c'), [2])


def test_any_name(tmp_path: Path) -> None:
    """Names that a file system allows are found in the order of their bytes, read, and printable in messages."""
    names = ['a#1', ' a', 'a ', 'a\nb', 'é', 'e\u0301', '\udcff', '~', '"', 'a,b=c', '\x7f', '\u2028', '🙂', '#']
    for name in names:
        write(Path(os.fsdecode(os.fsencode(tmp_path / name) + b'/' + os.fsencode(name) + b'.png')))
    dataset = ImageFolder(tmp_path)
    expected = sorted(os.fsencode(name) for name in names)
    assert dataset.paths.tolist() == [name + b'/' + name + b'.png' for name in expected]
    assert [os.fsencode(name) for name in dataset.classes] == expected
    assert [dataset[i]['label'] for i in range(len(names))] == [*range(len(names))]
    assert len(ImageFolder(tmp_path / '\udcff')) == 1
    (tmp_path / '\udcff' / '\udcff.png').write_text('')
    with pytest.raises(ValueError, match=r"The image '.*\\udcff\.png' cannot be read"):
        dataset[expected.index(b'\xff')]
