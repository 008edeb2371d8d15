"""Tools that make data sets: links to some classes, zips with maps, lists of a part."""

import os
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unmix.datasets import ImageFolder, ImageNet, Subset, archive
from unmix.utils.names import text

TOOLS = Path(__file__).resolve().parents[2] / 'tools' / 'dataset_converters'


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    def call(tool: str, *arguments: object) -> dict:
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        names = runpy.run_path(str(TOOLS / f'{tool}.py'))
        names['main']()
        return names

    return call


def folder(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 255, (4, 4, 3), dtype=np.uint8)).save(root / name)
    return root


def imagenet(root: Path) -> Path:
    classes = ('n00000001', 'n00000002', 'n00000003')
    return folder(
        root, *(f'{split}/{name}/{i}.png' for split in ('train', 'val') for name in classes for i in range(3))
    )


class TestSubset:
    def test_links(self, tmp_path: Path, run) -> None:
        source = imagenet(tmp_path / 'in')
        (tmp_path / 'list.txt').write_text('n00000003\n# two\nn00000001\n')
        run('create_imagenet_subset', source, tmp_path / 'out', '--subset', tmp_path / 'list.txt')
        for split in ('train', 'val'):
            assert sorted(os.listdir(tmp_path / 'out' / split)) == ['n00000001', 'n00000003']
            assert os.readlink(tmp_path / 'out' / split / 'n00000001') == f'{source}/{split}/n00000001'
            linked, listed = ImageNet(tmp_path / 'out', split), ImageNet(source, split, tmp_path / 'list.txt')
            assert linked.paths.tolist() == listed.paths.tolist()
            assert linked.labels.tolist() == listed.labels.tolist()
        with pytest.raises(ValueError, match=r'out/train has 2 links of these classes already: .* --force'):
            run('create_imagenet_subset', source, tmp_path / 'out', '--subset', tmp_path / 'list.txt')
        source.rename(tmp_path / 'moved')
        run(
            'create_imagenet_subset', tmp_path / 'moved', tmp_path / 'out', '--subset', tmp_path / 'list.txt', '--force'
        )
        assert len(ImageNet(tmp_path / 'out')) == 6

    def test_imagenet100_is_the_default(self, tmp_path: Path, run) -> None:
        with pytest.raises(FileNotFoundError, match=r'100 of the 100 classes of imagenet100\.txt have no folder'):
            run('create_imagenet_subset', imagenet(tmp_path / 'in'), tmp_path / 'out')

    @pytest.mark.parametrize(('change', 'message'), [
        (lambda root: (root / 'list.txt').write_text('n00000001\nn00000009\n'), r'1 of the 2 classes .* n00000009'),
        (lambda root: (root / 'list.txt').write_text('../in/train/n00000001\n'), r'1 of the 1 classes'),
        (lambda root: (root / 'in' / 'val' / 'n00000001').rename(root / 'in' / 'x'), 'no folder in .*in/val: n0'),
        (lambda root: (root / 'in' / 'val').rename(root / 'in' / 'x'), 'There is no folder .*in/val'),
        (lambda root: (root / 'list.txt').unlink(), '--subset: there is no file'),
        (lambda root: (root / 'out' / 'val' / 'n00000001').mkdir(parents=True), 'which are no links'),
        (lambda root: (root / 'out' / 'val' / 'other').mkdir(parents=True), 'val has other, which are not in the list'),
    ])  # fmt: skip
    def test_nothing_is_made_unless_all_can_be(self, tmp_path: Path, run, change, message: str) -> None:
        source = imagenet(tmp_path / 'in')
        (tmp_path / 'list.txt').write_text('n00000001\n')
        change(tmp_path)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run('create_imagenet_subset', source, tmp_path / 'out', '--subset', tmp_path / 'list.txt', '--force')
        assert not (tmp_path / 'out' / 'train').exists()

    def test_in_place(self, tmp_path: Path, run) -> None:
        source = imagenet(tmp_path / 'in')
        (tmp_path / 'list.txt').write_text('n00000001\n')
        with pytest.raises(ValueError, match='which are no links'):
            run('create_imagenet_subset', source, source, '--subset', tmp_path / 'list.txt', '--force')


NAMES = ('a/1.jpg', 'a/sub/2.png', 'b é/3.png', 'b é/tab\t4.png', 'c/5.bmp')


class TestZip:
    def test_zip_and_map(self, tmp_path: Path, run) -> None:
        root = folder(tmp_path / 'x', *NAMES)
        os.symlink(root / 'a' / '1.jpg', root / 'c' / 'link.jpg')
        (root / 'b é' / 'notes.txt').write_text('no image')
        run('zip_imagefolder', root)
        assert sorted(os.listdir(tmp_path)) == ['x', 'x.zip', 'x_map.txt']
        plain, packed = ImageFolder(root), ImageFolder(tmp_path / 'x.zip')
        assert [text(path) for path in packed.paths] == list(NAMES)
        assert (packed.classes, packed.labels.tolist()) == (plain.classes, plain.labels.tolist())
        assert [packed.files.read(i) for i in range(5)] == [plain.files.read(i) for i in range(5)]
        assert (tmp_path / 'x_map.txt').read_text().splitlines()[-1] == 'c/5.bmp\t2'
        with zipfile.ZipFile(tmp_path / 'x.zip') as file:
            assert file.testzip() is None
            assert {entry.compress_type for entry in file.infolist()} == {zipfile.ZIP_STORED}
        before = (tmp_path / 'x.zip').read_bytes()
        with pytest.raises(FileExistsError, match=r'x\.zip and .*x_map\.txt exist already'):
            run('zip_imagefolder', root)
        run('zip_imagefolder', root, '--overwrite')
        assert (tmp_path / 'x.zip').read_bytes() == before
        run('zip_imagefolder', root, '--overwrite', '--unlabelled')
        assert not (tmp_path / 'x_map.txt').exists()

    def test_classes_of_other_data(self, tmp_path: Path, run) -> None:
        folder(tmp_path / 'train', *NAMES)
        folder(tmp_path / 'val', 'c/1.png')
        run(
            'zip_imagefolder', tmp_path / 'val', '--class-list', tmp_path / 'train', '--out', tmp_path / 'out' / 'v.zip'
        )
        assert ImageFolder(tmp_path / 'out' / 'v.zip').labels.tolist() == [2]

    @pytest.mark.parametrize('kept', [0, 1, 30, 600, 1500, 10_000])
    def test_an_interrupted_one_is_continued(self, tmp_path: Path, run, kept: int, capsys) -> None:
        """At any byte; what was changed since is packed again."""
        root = folder(tmp_path / 'x', *NAMES)
        run('zip_imagefolder', root)
        whole = (tmp_path / 'x.zip').read_bytes()
        (tmp_path / 'x.zip').unlink()
        (tmp_path / 'x_map.txt').unlink()
        (tmp_path / 'x.zip.part').write_bytes(whole[:kept])
        capsys.readouterr()
        run('zip_imagefolder', root)
        assert (tmp_path / 'x.zip').read_bytes() == whole
        assert ('continues after' in capsys.readouterr().out) == (kept > 600)
        (tmp_path / 'x.zip').rename(tmp_path / 'x.zip.part')
        (tmp_path / 'x_map.txt').unlink()
        Image.new('L', (9, 9)).save(root / NAMES[1])
        run('zip_imagefolder', root)
        assert ImageFolder(tmp_path / 'x.zip').files.read(1) == (root / NAMES[1]).read_bytes()
        assert not (tmp_path / 'x.zip.part').exists()

    def test_a_file_that_cannot_be_read_leaves_what_was_done(self, tmp_path: Path, run, monkeypatch) -> None:
        root, read = folder(tmp_path / 'x', *NAMES), archive.FolderFiles.read

        def failing(self, number: int) -> bytes:
            if number == 3:
                raise ValueError('The image cannot be read')
            return read(self, number)

        monkeypatch.setattr('unmix.datasets.archive.FolderFiles.read', failing)
        with pytest.raises(ValueError, match='The image cannot be read'):
            run('zip_imagefolder', root)
        assert sorted(os.listdir(tmp_path)) == ['x', 'x.zip.part']
        monkeypatch.undo()
        run_again(root)
        assert len(ImageFolder(tmp_path / 'x.zip')) == 5

    def test_what_is_refused(self, tmp_path: Path, run, monkeypatch) -> None:
        root = folder(tmp_path / 'x', *NAMES)
        with pytest.raises(FileNotFoundError, match=r'There is no folder .*none'):
            run('zip_imagefolder', tmp_path / 'none')
        with pytest.raises(ValueError, match=r'--out is .*x\.tar; expected a name that ends in \.zip'):
            run('zip_imagefolder', root, '--out', tmp_path / 'x.tar')
        usage = type('Usage', (), dict(free=10))
        monkeypatch.setattr('shutil.disk_usage', lambda path: usage)
        with pytest.raises(OSError, match=r'has 10 bytes free; \d+ are needed'):
            run('zip_imagefolder', root)
        monkeypatch.undo()
        folder(tmp_path / 'x', 'a/new\nline.png')
        with pytest.raises(ValueError, match='1 names cannot be in a zip'):
            run_again(root)
        os.rename(root / 'a' / 'new\nline.png', os.fsencode(root) + b'/a/\xff.png')
        with pytest.raises(ValueError, match='1 names cannot be in a zip'):
            run_again(root)
        assert not (tmp_path / 'x.zip').exists()

    def test_damage_is_found(self, tmp_path: Path, run, monkeypatch) -> None:
        root = folder(tmp_path / 'x', *NAMES)
        read = archive.Archive.read
        monkeypatch.setattr('unmix.datasets.archive.Archive.read', lambda self, n: read(self, n)[::-1])
        with pytest.raises(ValueError, match=r'x\.zip\.part was not as it was written: .*a/1\.jpg'):
            run('zip_imagefolder', root)
        assert os.listdir(tmp_path) == ['x']


def run_again(root: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, 'argv', ['zip_imagefolder', str(root)])
        runpy.run_path(str(TOOLS / 'zip_imagefolder.py'))['main']()


class TestLists:
    def test_shares_and_numbers(self, tmp_path: Path, run, capsys) -> None:
        root = folder(tmp_path / 'x', *(f'{label}/{i}.png' for label in 'abc' for i in range(20)))
        run('make_semi_lists', root, tmp_path / 'lists', '--share', 0.01, 0.1, '--per-class', 5, '--seed', 4)
        found = {path.name: path.read_text().splitlines() for path in (tmp_path / 'lists').iterdir()}
        assert {name: len(lines) for name, lines in found.items()} == {
            '1percent.txt': 3, '10percent.txt': 6, '5perclass.txt': 15}  # fmt: skip
        assert set(found['1percent.txt']) < set(found['10percent.txt']) < set(found['5perclass.txt'])
        dataset = ImageFolder(root)
        drawn = Subset(dataset, share=0.1, seed=4)
        assert [text(path) for path in drawn.paths] == found['10percent.txt']
        assert Subset(dataset, files=tmp_path / 'lists' / '10percent.txt').rows.tolist() == drawn.rows.tolist()
        assert '10percent.txt: 6 of 60 images' in capsys.readouterr().out
        with pytest.raises(ValueError, match=r'1percent\.txt exists, and is another list'):
            run('make_semi_lists', root, tmp_path / 'lists')
        run('make_semi_lists', root, tmp_path / 'lists', '--overwrite')
        other = (tmp_path / 'lists' / '10percent.txt').read_text().splitlines()
        assert other == [text(path) for path in Subset(dataset, share=0.1).paths] != found['10percent.txt']

    def test_published_lists(self, tmp_path: Path, run) -> None:
        root = folder(tmp_path / 'x', 'n01/n01_1.png', 'n01/n01_2.png', 'n02/n02_1.png', 'n02/#n02_2.png')
        (tmp_path / '1percent.txt').write_text('n02_1.png\nn01_2.png\n#n02_2.png\n')
        run('make_semi_lists', root, tmp_path / 'lists', '--files', tmp_path / '1percent.txt')
        lines = (tmp_path / 'lists' / '1percent.txt').read_text().splitlines()
        assert lines == ['n01/n01_2.png', 'n02/#n02_2.png', 'n02/n02_1.png']
        (tmp_path / '1percent.txt').write_text('n03_1.png\n')
        with pytest.raises(FileNotFoundError, match=r'1 of the 1 images of .* not in the data set: n03_1\.png'):
            run('make_semi_lists', root, tmp_path / 'lists', '--files', tmp_path / '1percent.txt')

    def test_archives_and_odd_names(self, tmp_path: Path, run) -> None:
        root = folder(tmp_path / 'x', 'a/1\n2.png', 'b/3.png', 'b/4.png')
        run('make_semi_lists', root, tmp_path / 'lists', '--share', 1)
        assert len(Subset(ImageFolder(root), files=tmp_path / 'lists' / '100percent.txt')) == 3
        (root / 'a' / '1\n2.png').rename(root / 'a' / '1.png')
        run('zip_imagefolder', root)
        run('make_semi_lists', tmp_path / 'x.zip', tmp_path / 'zipped', '--per-class', 1)
        assert len(Subset(ImageFolder(root), files=tmp_path / 'zipped' / '1perclass.txt')) == 2


@pytest.mark.slow
@pytest.mark.parametrize('tool', sorted(path.stem for path in TOOLS.glob('*.py')))
def test_errors_are_one_message(tmp_path: Path, tool: str) -> None:
    command = [sys.executable, str(TOOLS / f'{tool}.py'), str(tmp_path / 'none'), str(tmp_path / 'out')]
    done = subprocess.run(command[: 3 if tool == 'zip_imagefolder' else 4], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'error: ' in done.stderr
    assert 'none' in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('tool', sorted(path.stem for path in TOOLS.glob('*.py')))
def test_help_shows_a_command(tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, 'argv', [f'{tool}.py', '--help'])
    with pytest.raises(SystemExit, match='0'):
        runpy.run_path(str(TOOLS / f'{tool}.py'), run_name='__main__')
    assert f'tools/dataset_converters/{tool}.py' in capsys.readouterr().out
