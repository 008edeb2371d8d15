"""Lists of images and classes: paths, and names of any characters."""

import os
from pathlib import Path

import pytest
from PIL import Image

from unmix.datasets import ImageFolder, Subset
from unmix.utils.names import text

NAMES = (
    'a/1.png', 'b/1.png', 'a/only.png', 'a/img #2.png', 'a/#3.png', '#c/4.png', '#c/# 5.png', 'a/ 6.png', ' d /7.png ',
    'a/8\\9.png', 'a/\udcff.png', 'a/é.png', 'a/x\r.png', 'a/new\nline.png', 'a/\u2028\x0b\x85.png', 'b/"q".png',
    'b/50%,x.png', '~/t.png',
)  # fmt: skip


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('lists') / 'images'
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (4, 4)).save(root / name, 'PNG')
    os.rename(root / ' d ' / '7.png ', root / ' d ' / ' 7 .png')
    return root


def chosen(root: Path, tmp_path: Path, content: bytes, dataset: ImageFolder | Subset | None = None) -> list[str]:
    (tmp_path / 'list.txt').write_bytes(content)
    subset = Subset(dataset or ImageFolder(root), files=tmp_path / 'list.txt')
    assert subset.paths.tolist() == subset.dataset.paths[subset.rows.numpy()].tolist()
    assert [text(subset.paths[i]).split('/')[0] for i in range(len(subset))] == [
        subset.classes[label] for label in subset.labels
    ]
    return [text(path) for path in subset.paths.tolist()]


LISTS = {
    b'a/1.png\nb/1.png\n': ['a/1.png', 'b/1.png'],
    b'b/1.png\r\n\r\na/1.png': ['a/1.png', 'b/1.png'],
    b'\xef\xbb\xbfa/1.png\n': ['a/1.png'],
    'a/é.png\r\n'.encode('utf-16'): ['a/é.png'],
    b'only.png\n./a/only.png\na//only.png\na/../a/only.png\n': ['a/only.png'],
    b'a\\1.png\n': ['a/1.png'],
    b'a/8\\9.png\n': ['a/8\\9.png'],
    b'# a/1.png\n#a/1.png\n  # x\nb/1.png   # the first\n': ['b/1.png'],
    b'a/img #2.png\n#3.png\n#c/4.png\n#c/# 5.png # five\n': ['#c/# 5.png', '#c/4.png', 'a/#3.png', 'a/img #2.png'],
    b'  a/1.png\t\na/ 6.png\n d / 7 .png\n': [' d / 7 .png', 'a/ 6.png', 'a/1.png'],
    b'a/\xff.png\na/\xc3\xa9.png\n': ['a/é.png', 'a/\udcff.png'],
    b'a/x\r.png\na/1.png\r\n': ['a/1.png', 'a/x\r.png'],
    b'a/new\nline.png\0a/1.png\0': ['a/1.png', 'a/new\nline.png'],
    'a/\u2028\x0b\x85.png\n'.encode(): ['a/\u2028\x0b\x85.png'],
    b'b/"q".png\nb/50%,x.png\n~/t.png\n': ['b/"q".png', 'b/50%,x.png', '~/t.png'],
}


@pytest.mark.parametrize('content', LISTS)
def test_lists_of_images(root: Path, tmp_path: Path, content: bytes) -> None:
    assert chosen(root, tmp_path, content) == LISTS[content]


def test_absolute_paths(root: Path, tmp_path: Path) -> None:
    os.symlink(root, tmp_path / 'link')
    content = f'{root}/a/1.png\n{tmp_path}/link/b/1.png # one\n'.encode()
    assert chosen(tmp_path / 'link', tmp_path, content) == ['a/1.png', 'b/1.png']


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'1.png\n', r'1 names in .* several images: 1\.png; the first of a/1\.png, b/1\.png\. Write the path'),
        (
            b'a/1.png\nn01/only.png\n',
            r'1 of the 2 images of .* not in the data set: n01/only\.png\. A line is the path',
        ),
        (b'images/a/1.png\n', r'not in the data set: images/a/1\.png'),
        (b'/elsewhere/a/1.png\n', 'not in the data set: /elsewhere/a/1.png'),
        (b'a/1.png 0\n', r'not in the data set: a/1\.png 0'),
        (b'only.png #x\n', 'not in the data set: only.png #x'),
        (b'a/\xfe.png\n', r"not in the data set: 'a/\\udcfe\.png'"),
        (b'# nothing\n \n', 'has no names'),
        (b'', 'has no names'),
    ],
)
def test_bad_lists_are_refused(root: Path, tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=r'dataset\.files: .*' + message):
        chosen(root, tmp_path, content)


def test_a_list_of_a_subset_is_of_its_images(root: Path, tmp_path: Path) -> None:
    (tmp_path / 'b.txt').write_bytes(b'b/1.png\n~/t.png\n')
    inner = Subset(ImageFolder(root), files=tmp_path / 'b.txt')
    assert chosen(root, tmp_path, b'1.png\n', inner) == ['b/1.png']  # a/1.png is not in it
    with pytest.raises(FileNotFoundError, match=r'only\.png'):
        chosen(root, tmp_path, b'only.png\n', inner)
    assert Subset(inner, share=0.5).paths.tolist() == [b'b/1.png', b'~/t.png']


def test_lists_of_images_without_labels(root: Path, tmp_path: Path) -> None:
    (tmp_path / 'list.txt').write_text('a/only.png')
    subset = Subset(ImageFolder(root, labelled=False), files=tmp_path / 'list.txt')
    assert (len(subset), subset.labels, 'label' in subset[0]) == (1, None, False)


@pytest.mark.parametrize(
    ('content', 'classes'),
    [
        (b'#c\r\na/\n', ('#c', 'a')),
        (b'# c\n#d\na # comment\n', ('a',)),
        (b' d \nb\n', (' d ', 'b')),
        (b'~\n./b\n', ('b', '~')),
    ],
)
def test_lists_of_classes(root: Path, tmp_path: Path, content: bytes, classes: tuple[str, ...]) -> None:
    (tmp_path / 'list.txt').write_bytes(content)
    assert ImageFolder(root, class_list=tmp_path / 'list.txt').classes == classes
