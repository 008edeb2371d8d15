"""The doctor finds each planted fault, and nothing in clean data."""

import io
import json
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.fileio import BaseStorageBackend, register_backend
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch.utils.data import IterableDataset

from unmix.apis import doctor
from unmix.apis.doctor import examine_data
from unmix.cli import main
from unmix.datasets import BaseDataset, BrokenImage, ImageFolder
from unmix.datasets.decode import ORIENTATION
from unmix.registry import DATASETS

SIZE = 64
PICTURES = load_sample_images().images
HTML = '<!DOCTYPE html><html><body>404</body></html>'


def crop(number: int, size: int = SIZE) -> Image.Image:
    """A part of a photograph; different numbers do not overlap."""
    picture = PICTURES[number % 2]
    rows, columns = picture.shape[0] // SIZE, picture.shape[1] // SIZE
    row, column = divmod(number // 2, columns)
    assert row < rows
    return Image.fromarray(picture[row * SIZE :, column * SIZE :][:size, :size])


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """``train`` with 2 classes of 10, ``test`` with 2 of 5."""
    for number in range(30):
        part = 'train' if number < 20 else 'test'
        path = tmp_path / 'data' / part / 'ab'[number % 2] / f'{number:02}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        crop(number).save(path, quality=95)
    return tmp_path / 'data'


def found(report: dict[str, Any]) -> dict[str, list[str]]:
    return {f'{finding.kind} in {finding.part}': finding.images for finding in report['findings']}


@pytest.mark.slow
def test_clean_photographs_and_digits_have_no_findings(clean: Path, tmp_path: Path) -> None:
    assert found(examine_data(clean)) == {}
    for number, (image, label) in enumerate(zip(*load_digits(return_X_y=True), strict=True)):
        path = tmp_path / 'digits' / ('train' if number < 1200 else 'test') / str(label) / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.reshape(8, 8) * 15.9).astype(np.uint8)).save(path, compress_level=1)
    assert found(examine_data(tmp_path / 'digits')) == {}


def oriented(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


def turned(path: Path) -> None:
    crop(30).save(path, exif=oriented(6))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def rename_text(path: Path) -> None:
    path.write_text(HTML)


FAULTS: dict[str, tuple[str, Callable[[Path], Any], dict[str, list[str]]]] = {
    'zero bytes': ('a/00.jpg', lambda p: p.write_bytes(b''), {'zero_byte in train': ['a/00.jpg: the file is empty']}),
    'truncated': ('a/00.jpg', cut, {'truncated in train': ['a/00.jpg: .*']}),
    'no image': ('a/00.jpg', rename_text, {'no_image in train': ['a/00.jpg: it is an HTML page']}),
    'other noise': (
        'a/00.jpg', lambda p: p.write_bytes(b'12345' * 99), {'no_image in train': ['a/00.jpg: it is of no format.*']}),
    'wrong extension': (
        'a/00.jpg', lambda p: crop(0).save(p, 'PNG'), {'wrong_extension in train': ['a/00.jpg: its format is PNG']}),
    'exact duplicate': (
        'a/x.jpg', lambda p: shutil.copy(p.parent / '00.jpg', p),
        {'exact_duplicates in train': ['a/00.jpg = a/x.jpg']}),
    'the same pixels in another format': (
        'a/x.png', lambda p: Image.open(p.parent / '00.jpg').save(p),
        {'exact_duplicates in train': ['a/00.jpg = a/x.png']}),
    'near duplicate': (
        'a/x.jpg', lambda p: crop(6).resize((48, 48)).save(p, quality=80),
        {'near_duplicates in train': ['a/06.jpg = a/x.jpg']}),
    'near duplicate of a picture without details': (
        'a/x.jpg', lambda p: crop(18).resize((48, 48)).save(p, quality=90),
        {'near_duplicates in train': ['a/18.jpg = a/x.jpg']}),
    'another label': (
        'b/x.jpg', lambda p: shutil.copy(p.parents[1] / 'a' / '00.jpg', p),
        {'conflicting_labels in train': ['a/00.jpg = b/x.jpg']}),
    'leak': (
        '../test/a/x.jpg', lambda p: shutil.copy(p.parents[2] / 'train' / 'a' / '00.jpg', p),
        {'leakage in train, test': ['train: a/00.jpg = test: a/x.jpg']}),
    'near leak': (
        '../test/a/x.jpg', lambda p: crop(6).save(p, quality=60),
        {'near_leakage in train, test': ['train: a/06.jpg = test: a/x.jpg']}),
    'grey among RGB': ('a/00.jpg', lambda p: crop(0).convert('L').save(p), {'channels in train': ['a/00.jpg']}),
    'transparent among RGB': (
        'a/x.png', lambda p: crop(40).convert('RGBA').save(p), {'channels in train': ['a/x.png']}),
    'CMYK among RGB': ('a/00.jpg', lambda p: crop(0).convert('CMYK').save(p), {'channels in train': ['a/00.jpg']}),
    'tiny': ('a/00.jpg', lambda p: crop(0, 12).save(p), {'sizes in train': ['a/00.jpg']}),
    'far longer than wide': (
        'a/00.jpg', lambda p: crop(0).resize((640, 40)).save(p), {'sizes in train': ['a/00.jpg']}),
    'turned by EXIF': ('a/00.jpg', turned, {'exif_rotated in train': ['a/00.jpg']}),
    'odd file': ('a/notes.txt', lambda p: p.write_text('x'), {'odd_files in train': ['a/notes.txt']}),
    'hidden file': ('a/.x.jpg', lambda p: p.write_text('x'), {'odd_files in train': ['a/.x.jpg']}),
    'imbalance': (
        'b', lambda p: [(p / f'{n:02}.jpg').unlink() for n in range(5, 21, 2)], {'imbalance in train': []}),
    'empty class': ('c', lambda p: p.mkdir(), {'empty_class in train': ['c']}),
    'constant': ('a/00.jpg', lambda p: Image.new('RGB', (64, 64), 'red').save(p), {'constant in train': ['a/00.jpg']}),
    'names of classes': ('b', lambda p: p.rename(p.with_name('A')), {'class_names in train': ["'A' = 'a'"]}),
}  # fmt: skip
BREAKS = {
    'zero bytes', 'truncated', 'no image', 'other noise', 'another label', 'leak', 'near leak', 'empty class',
}  # fmt: skip


@pytest.mark.parametrize('fault', FAULTS)
def test_a_planted_fault_is_found_and_nothing_else(clean: Path, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    place, plant, expected = FAULTS[fault]
    plant(clean / 'train' / place)
    report = found(examine_data(clean))
    assert report.keys() == expected.keys()
    for kind, names in expected.items():
        assert len(report[kind]) == len(names)
        assert all(map(re.fullmatch, names, report[kind]))
    try:
        main(['doctor', str(clean)])
        status = 0
    except SystemExit as stop:
        status = int(str(stop.code))
    assert status == (fault in BREAKS)
    out = capsys.readouterr().out
    for kind, names in report.items():
        assert f': {kind.replace(" in ", ", ")}: ' in out
        assert all(f'\n  {name}\n' in out for name in names)


def test_a_file_that_may_not_be_read(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The superuser may read all, so the system's answer is replaced."""
    from unmix.datasets import decode

    def refuse(path: bytes, mode: str) -> Any:
        if path.endswith(b'a/00.jpg'):
            raise PermissionError(13, 'Permission denied')
        return open(path, mode)

    monkeypatch.setattr(decode, 'open', refuse, raising=False)
    assert found(examine_data(clean)) == {'unreadable in train': ['a/00.jpg: Permission denied']}


def test_a_decompression_bomb(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new('L', (1000, 1000), 0).save(clean / 'train' / 'a' / 'x.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 400_000)
    (names,) = found(examine_data(clean)).values()
    assert names[0].startswith('a/x.png: Image size (1000000 pixels) exceeds limit')


def test_all_that_is_wrong_at_once_in_one_folder_without_parts(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All images of an error are listed; in other processes as in this one; JSON and HTML have all."""
    root = clean / 'train'
    for n in range(2, 12, 2):
        (root / 'a' / f'{n:02}.jpg').write_bytes(b'')
    evil = '<img src=x onerror=alert(1)>.jpg'.replace('/', '')
    (root / 'b' / evil).write_text('none')
    shutil.copy(root / 'a' / '00.jpg', root / 'a' / 'z.jpg')
    with pytest.raises(SystemExit) as stop:
        main(['doctor', str(root), '--json', str(tmp_path / 'x.json'), '--html', str(tmp_path / 'x.html')])
    assert stop.value.code == 1
    out = capsys.readouterr().out
    assert all(f'a/{n:02}.jpg: the file is empty' in out for n in range(2, 12, 2))
    content = json.loads((tmp_path / 'x.json').read_text())
    assert [(one['kind'], len(one['images'])) for one in content['findings']] == [
        ('zero_byte', 5), ('no_image', 1), ('exact_duplicates', 1)]  # fmt: skip
    numbers = content['parts']['images']
    assert (numbers['images'], numbers['readable'], numbers['classes']) == (22, 16, {'a': 11, 'b': 11})
    pixels = np.concatenate([np.asarray(Image.open(path)).reshape(-1, 3) for path in sorted(root.rglob('*.jpg'))
                             if path.stat().st_size > 9])  # fmt: skip
    np.testing.assert_allclose(numbers['mean'], pixels.mean(0), atol=0.02)
    np.testing.assert_allclose(numbers['std'], pixels.std(0), atol=0.02)
    tags: list[tuple[str, dict[str, Any]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    text = (tmp_path / 'x.html').read_text()
    parser.feed(text)
    images = [attributes for tag, attributes in tags if tag == 'img']
    assert all(one['src'].startswith('data:image/png;base64,') and 'onerror' not in one for one in images)
    assert len(images) == 2  # the pair of duplicates
    assert not any(tag == 'script' for tag, _ in tags)
    assert [attributes['href'] for tag, attributes in tags if tag == 'link'] == ['data:,']  # no icon is asked for
    assert '&lt;img src=x onerror=alert(1)&gt;.jpg' in text


def test_another_folder_to_test_on(clean: Path) -> None:
    shutil.copy(clean / 'train' / 'a' / '00.jpg', clean / 'test' / 'b' / 'y.jpg')
    report = examine_data(clean / 'train', clean / 'test')
    assert found(report) == {'leakage in images, test': ['images: a/00.jpg = test: b/y.jpg']}


def test_an_image_in_both_parts_and_twice_in_one_is_a_leak_and_a_duplicate(clean: Path) -> None:
    for name in ('train/a/x.jpg', 'test/a/x.jpg', 'test/a/y.jpg'):
        shutil.copy(clean / 'train' / 'a' / '00.jpg', clean / name)
    report = found(examine_data(clean))
    assert report['leakage in train, test'] == ['train: a/00.jpg = test: a/x.jpg', 'train: a/00.jpg = test: a/y.jpg']
    assert report['exact_duplicates in train'] == ['a/00.jpg = a/x.jpg']
    assert report['exact_duplicates in test'] == ['a/x.jpg = a/y.jpg']


def config(folder: Path, **changes: Any) -> list[str]:
    options = {'data_root': folder, 'train_dataloader.batch_size': 8, 'model.head.queue_size': 8,
               'data_preprocessor.mean': [123, 130, 120], 'data_preprocessor.std': [70, 70, 70],
               'model.backbone.width': 4, 'model.neck.in_dim': 32, 'train_cfg.max_epochs': 400}  # fmt: skip
    options |= {key.replace('__', '.'): value for key, value in changes.items()}
    return ['quickstart/unmix-moco_folder', '--cfg-options', *(f'{key}={value}' for key, value in options.items())]


@pytest.mark.parametrize(
    ('changes', 'kinds'),
    [
        ({}, []),
        (dict(train_dataloader__batch_size=64), ['sizes_of_method']),
        (dict(model__head__queue_size=4096), ['sizes_of_method']),
        (dict(data_preprocessor__mean=[0.5, 0.5, 0.5]), ['mean_std']),
    ],
    ids=['fits', 'batch', 'queue', 'mean'],
)
def test_a_config_is_compared_with_its_images(
    clean: Path, changes: dict[str, Any], kinds: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ['doctor', *config(clean / 'train', **changes)]
    if 'train_dataloader__batch_size' in changes:
        with pytest.raises(SystemExit):
            main(command)
    else:
        main(command)
    out = capsys.readouterr().out
    assert re.findall(r'^(?:error|warning|note): (\w+)', out, re.MULTILINE) == kinds
    if 'sizes_of_method' in kinds:
        (words,) = re.findall(r'--cfg-options (.*)$', out, re.MULTILINE)
        main([*command, *words.split()])  # the advice works
        assert 'sizes_of_method' not in capsys.readouterr().out


def test_data_sets_in_memory_are_examined_too() -> None:
    """Also in a config whose bank is the data to train on."""
    assert found(examine_data('quickstart/unmix-moco_digits')) == {}


def test_a_data_set_that_cannot_be_built_is_a_finding(clean: Path, tmp_path: Path) -> None:
    (clean / 'test' / 'c').mkdir()
    (tmp_path / 'own.py').write_text(
        "_base_ = 'unmix::quickstart/unmix-moco_folder.py'\n"
        f"train_dataloader = dict(batch_size=8, dataset=dict(data_root='{clean / 'train'}'))\n"
        'model = dict(head=dict(queue_size=8))\n'
        'train_cfg = dict(max_epochs=400)\n'
        f"val_dataloader = dict(batch_size=8, dataset=dict(type='ImageFolder', data_root='{clean / 'test'}'))\n"
        "val_cfg, val_evaluator = dict(type='ValLoop'), dict(type='Accuracy')\n"
    )
    report = examine_data(tmp_path / 'own.py')
    (finding,) = report['findings']
    assert (finding.kind, finding.severity, finding.part) == ('data_set', 'error', 'val')
    assert 'no image in the class folders c' in finding.text


@pytest.mark.parametrize(('arguments', 'message'), [
    (['lost'], 'there is no folder, archive or config lost'), (['empty'], 'holds no image'),
    (['none.py'], 'none.py has no data set to examine'),
    (['quickstart/moco_digits', '--processes', '0'], '--processes is 0; expected'),
    (['empty', '--processes', '2', '--cfg-options', 'a=1'], '--cfg-options and --processes: only for a config'),
    (['quickstart/moco_digits', '--cfg-options', 'train_dataloader.batch_size=0'], 'batch_size is 0; expected a whole'),
    (['lost', '--json', 'empty'], '--json is empty, which cannot be written (it is a folder)'),
    (['lost', '--html', 'none.py/x'], '--html is none.py/x, which cannot be written'),
    (['lost', '--json', 'x', '--html', './x'], '--json and --html are both x'),
])  # fmt: skip
def test_errors(arguments: list[str], message: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'none.py').touch()
    with pytest.raises(SystemExit) as stop:
        main(['doctor', *arguments])
    assert stop.value.code == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_processes_change_nothing(clean: Path) -> None:
    for number in range(280):
        noise = np.random.default_rng(number).integers(0, 256, (9, 9, 3)).astype(np.uint8)
        Image.fromarray(noise).save(clean / 'train' / 'ab'[number % 2] / f'n{number}.png')
    (clean / 'train' / 'a' / 'n0.png').write_bytes(b'')
    reports = [doctor._as_json(examine_data(clean, workers=workers)) for workers in (0, 2)]
    assert reports[0] == reports[1]
    assert '"zero_byte"' in reports[0]


def pack(folder: Path, form: str) -> str:
    """Pack a folder; return what names the archives."""
    files = sorted(path for path in folder.rglob('*') if path.is_file())
    names = [str(path.relative_to(folder)) for path in files]
    if form == 'zip':
        with zipfile.ZipFile(folder.with_suffix('.zip'), 'w') as archive:
            for path, name in zip(files, names, strict=True):
                archive.write(path, name)
        return str(folder.with_suffix('.zip'))
    shards = [files[::2], files[1::2]] if form == 'shards' else [files]
    for number, part in enumerate(shards):
        with tarfile.open(folder.with_name(f'{folder.name}-{number}.tar'), 'w') as tar:
            for path in part:
                tar.add(path, str(path.relative_to(folder)))
                if form == 'shards':
                    label = tarfile.TarInfo(str(path.relative_to(folder).with_suffix('.cls')))
                    label.size = 1
                    tar.addfile(label, io.BytesIO(b'%d' % 'ab'.index(path.parent.name)))
    return str(folder.with_name(f'{folder.name}-{{0..{len(shards) - 1}}}.tar'))


@pytest.mark.slow
@pytest.mark.parametrize('form', ['zip', 'tar', 'shards'])
def test_archives_have_the_findings_of_their_folder(clean: Path, form: str) -> None:
    train, test = clean / 'train', clean / 'test'
    cut(train / 'a' / '00.jpg')
    shutil.copy(train / 'a' / '02.jpg', train / 'b' / 'x.jpg')
    shutil.copy(train / 'a' / '04.jpg', test / 'a' / 'y.jpg')
    expected = examine_data(clean)
    reports = [examine_data(pack(train, form), pack(test, form))]
    if form != 'shards':
        reports.append(examine_data(pack(clean, form)))
    for report in reports:
        kinds = {(finding.kind, finding.severity): len(finding.images) for finding in report['findings']}
        assert kinds == {(finding.kind, finding.severity): len(finding.images) for finding in expected['findings']}
        assert {part.role: len(part) for part in report['parts']} == {'train': 21, 'test': 11}
    assert {kind for kind, _ in kinds} == {'truncated', 'conflicting_labels', 'leakage'}


def test_a_missing_or_foreign_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'DATA: .*stands for 2 files, of which 2 do not exist'):
        examine_data(tmp_path / 'shard-{0..1}.tar')
    (tmp_path / 'x.zip').write_bytes(b'PK not a zip')
    with pytest.raises(ValueError, match=r'DATA: .*x\.zip.* is no whole zip'):
        examine_data(tmp_path / 'x.zip')


def own_config(path: Path, train: dict[str, Any], val: dict[str, Any] | None = None, **loader: Any) -> Path:
    """Write a config whose data sets are these."""
    loader = dict(batch_size=8) | loader
    lines = [
        "_base_ = 'unmix::quickstart/unmix-moco_folder.py'",
        f'train_dataloader = dict({loader!r}, dataset=dict({train!r}, _delete_=True))',
        'data_preprocessor = dict(mean=[123, 130, 120], std=[70, 70, 70])',
        'model = dict(head=dict(queue_size=8), backbone=dict(width=4), neck=dict(in_dim=32))',
        'train_cfg = dict(max_epochs=400)',
    ]
    if val is not None:
        lines += [
            f'val_dataloader = dict(batch_size=8, dataset={val!r})',
            "val_cfg, val_evaluator = dict(type='ValLoop'), dict(type='Accuracy')",
        ]
    path.write_text('\n'.join(lines))
    return path


def status_of(*arguments: Any) -> int:
    try:
        main(['doctor', *map(str, arguments)])
    except SystemExit as stop:
        return int(str(stop.code))
    return 0


def test_no_data_set_of_a_config_can_be_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = ['--json', tmp_path / 'x.json', '--html', tmp_path / 'x.html']
    command = ['quickstart/unmix-moco_folder', *pages, '--cfg-options', f'data_root={tmp_path / "nowhere"}']
    assert status_of(*command) == 1
    assert (
        f'error: data_set, train: The data set cannot be built: dataset.data_root: there is no folder {tmp_path}'
        in (capsys.readouterr().out)
    )
    assert [one['kind'] for one in json.loads((tmp_path / 'x.json').read_text())['findings']] == ['data_set']
    assert 'data_set, train' in (tmp_path / 'x.html').read_text()


@register_backend('drawer')
class Drawer(BaseStorageBackend):
    """A backend that knows the names of a folder, and cannot list them."""

    def __init__(self, at: str) -> None:
        self.at = Path(at)

    def get(self, filepath: str) -> bytes:
        return (self.at / filepath).read_bytes()

    def get_text(self, filepath: str) -> str:
        return self.get(filepath).decode()


def test_files_of_a_backend_that_the_pipeline_names(clean: Path, tmp_path: Path) -> None:
    """The findings are those of the folder, whose images another decoder gives, of other pixels."""
    pytest.importorskip('mmcv', reason='needs the package mmcv')
    root = clean / 'train'
    shutil.copy(root / 'a' / '02.jpg', root / 'b' / 'x.jpg')
    cut(root / 'a' / '04.jpg')
    (root / 'a' / '06.jpg').write_bytes(b'')
    (root / 'a' / '08.jpg').write_text(HTML)
    turned(root / 'a' / '10.jpg')
    expected = examine_data(root)
    names = [str(path.relative_to(root)) for path in sorted(root.rglob('*.jpg'))]
    (tmp_path / 'map.txt').write_text(''.join(f'{name}\t{"ab".index(name[0])}\n' for name in names))
    load = dict(type='mmcv.LoadImageFromFile', backend_args=dict(backend='drawer', at=str(root)))
    pipeline = dict(type='MultiView', transforms=[load, dict(type='RandomResizedCrop', size=32)])
    train = dict(type='ImageFolder', data_root='', map_file=str(tmp_path / 'map.txt'), pipeline=pipeline)
    report = examine_data(own_config(tmp_path / 'own.py', train))
    assert {kind.replace('train', 'images') for kind in found(report)} == {*found(expected)}
    kinds = {finding.kind for finding in report['findings']}
    assert kinds >= {'conflicting_labels', 'truncated', 'zero_byte', 'no_image', 'exif_rotated'}
    for kind, images in found(expected).items():
        own = found(report)[kind.replace('images', 'train')]
        assert [name.partition(':')[0] for name in own] == [name.partition(':')[0] for name in images]


def test_a_video_that_is_left_out_is_a_warning(tmp_path: Path) -> None:
    pytest.importorskip('mmcv', reason='needs the package mmcv')
    (tmp_path / 'videos').mkdir()
    writer = cv2.VideoWriter(str(tmp_path / 'videos' / 'good.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 25, (SIZE, SIZE))
    if not writer.isOpened():
        pytest.skip('this OpenCV writes no videos')
    for number in range(20):
        writer.write(np.asarray(crop(number))[..., ::-1])
    writer.release()
    (tmp_path / 'videos' / 'bad.avi').write_bytes(b'none')
    train = dict(type='VideoFrames', data_root=str(tmp_path / 'videos'), broken='skip')
    report = examine_data(own_config(tmp_path / 'own.py', train))
    assert [len(part) for part in report['parts']] == [20]
    (finding,) = report['findings']
    assert (finding.kind, finding.severity, finding.part) == ('data_set', 'warning', 'train')
    assert '1 of the 2 videos' in finding.text
    assert 'bad.avi' in finding.text
    report = examine_data(own_config(tmp_path / 'own.py', train | dict(broken='error')))
    assert [(finding.kind, finding.severity) for finding in report['findings']] == [('data_set', 'error')]


def test_a_class_of_a_list_may_have_no_image_to_test_on(clean: Path, tmp_path: Path) -> None:
    """To train on it should; and a folder without a list must have one, or no data set can be built of it."""
    shutil.rmtree(clean / 'test' / 'b')
    train = dict(type='ImageFolder', data_root=str(clean / 'train'))
    val = dict(type='ImageFolder', data_root=str(clean / 'test'), class_list=str(clean / 'train'))
    path = own_config(tmp_path / 'own.py', train, val)
    (finding,) = examine_data(path)['findings']
    assert (finding.kind, finding.severity, finding.part, finding.images) == ('empty_class', 'note', 'val', ['b'])
    assert 'delete' not in finding.text
    assert status_of(path) == 0
    (tmp_path / 'list.txt').write_text('a\nb\nc\n')
    train['class_list'] = str(tmp_path / 'list.txt')
    (clean / 'train' / 'c').mkdir()
    path = own_config(tmp_path / 'own.py', train)
    (finding,) = examine_data(path)['findings']
    assert (finding.kind, finding.severity, finding.part, finding.images) == ('empty_class', 'error', 'train', ['c'])
    assert 'class_list' in finding.text
    assert status_of(path) == 1


BACK = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270}  # fmt: skip


@pytest.mark.parametrize('exif', [True, False])
def test_images_are_compared_as_the_data_set_reads_them(clean: Path, tmp_path: Path, exif: bool) -> None:
    """The pairs are those of a loop over the data sets."""
    for value, back in BACK.items():
        image = crop(2 * value).crop((0, 0, 60, 40))
        image.save(clean / 'train' / 'a' / f'up{value}.png')
        image.transpose(back).save(
            clean / 'test' / 'a' / f'turned{value}.{"tif" if value == 6 else "png"}', exif=oriented(value)
        )
        image.save(clean / 'train' / 'a' / f'stored{value}.png', exif=oriented(value))
        crop(2 * value + 1).save(clean / 'train' / 'b' / f'same{value}.jpg', quality=95, exif=oriented(value))
    sets = {part: ImageFolder(clean / part, exif=exif) for part in ('train', 'test')}
    items = [
        (part, dataset.name(row), dataset[row]['inputs'])
        for part, dataset in sets.items()
        for row in range(len(dataset))
    ]
    duplicates: set[str] = set()
    leakage: dict[str, str] = {}  # by the image to test on: the first such image to train on
    for number, (part, name, image) in enumerate(items):
        for other_part, other, pixels in items[number + 1 :]:
            if image.shape == pixels.shape and torch.equal(image, pixels):
                if part == other_part:
                    duplicates.add(f'{name} = {other}')
                else:
                    leakage.setdefault(other, f'train: {name} = val: {other}')
    assert len(leakage) == (7 if exif else 1)  # PIL turns a TIFF in either case
    assert len(duplicates) == (0 if exif else 14)
    train, val = (dict(type='ImageFolder', data_root=str(clean / part), exif=exif) for part in ('train', 'test'))
    report = examine_data(own_config(tmp_path / 'own.py', train, val))
    got = found(report)
    assert {*got.get('leakage in train, val', [])} == {*leakage.values()}
    assert {*got.get('exact_duplicates in train', []), *got.get('exact_duplicates in val', [])} == duplicates
    assert len(got['exif_rotated in train']) == 14
    assert len(got['exif_rotated in val']) == 7
    assert {finding.severity for finding in report['findings'] if finding.kind == 'exif_rotated'} == {
        'note' if exif else 'warning'
    }


class Many(IterableDataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 40

    def __iter__(self) -> Any:
        raise AssertionError('a stream is not read')


def test_a_stream_has_its_sizes_compared(tmp_path: Path) -> None:
    DATASETS.register_module(module=Many)
    try:
        path = own_config(tmp_path / 'own.py', dict(type='Many'), sampler=None)
        assert [(finding.kind, finding.severity) for finding in examine_data(path)['findings']] == [('stream', 'note')]
        path = own_config(tmp_path / 'own.py', dict(type='Many'), sampler=None, batch_size=64)
        error, note = examine_data(path)['findings']
        assert (error.kind, error.severity, note.kind) == ('sizes_of_method', 'error', 'stream')
        assert 'batch_size is 64, but the training data set has only 40 images' in error.text
    finally:
        DATASETS.module_dict.pop('Many')


def test_whole_files_of_other_values_are_no_truncated_ones(clean: Path, tmp_path: Path) -> None:
    """The decoder that is advised reads them all, and finds which are equal."""
    rng = np.random.default_rng(0)
    values = {
        'int16': rng.integers(-500, 500, (40, 50)).astype(np.int16),
        'int32': rng.integers(-500, 500, (40, 50)).astype(np.int32),
        'float': rng.random((40, 50), np.float32) / 3,
        'float_rgb': rng.random((40, 50, 3), np.float32),
    }
    values['float_again'] = values['float']
    root = clean / 'train' / 'a'
    for name, content in values.items():
        assert cv2.imwrite(str(root / f'{name}.tif'), content)
    whole = [f'a/{name}.tif' for name in sorted(values)]
    for name in ('float', 'float_rgb'):
        data = (root / f'{name}.tif').read_bytes()
        (root / f'{name}_cut.tif').write_bytes(data[: len(data) // 2])
    report = examine_data(clean)
    got = found(report)
    assert [name.partition(':')[0] for name in got['other_values in train']] == whole
    assert [name.partition(':')[0] for name in got['truncated in train']] == ['a/float_cut.tif', 'a/float_rgb_cut.tif']
    assert 'a/float.tif: its values are of mode F; expected 8 or 16 bits' in got['other_values in train']
    assert not any('0x' in name for name in got['truncated in train'])  # no address in memory
    texts = {finding.kind: finding.text for finding in report['findings']}
    assert "dataset.decoder to 'cv2'" in texts['other_values']
    assert 'delete' not in texts['other_values']
    train = dict(type='ImageFolder', data_root=str(clean / 'train'), decoder='cv2')
    got = found(examine_data(own_config(tmp_path / 'own.py', train)))
    assert 'other_values in train' not in got
    assert len(got['truncated in train']) == 2
    assert got['exact_duplicates in train'] == ['a/float.tif = a/float_again.tif']
    assert 'constant in train' not in got


def test_the_advice_of_an_error_works(clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken image says what the doctor is to be given; that lists the image."""
    cut(clean / 'train' / 'a' / '00.jpg')

    class Own(BaseDataset):
        data_root = clean

        def __len__(self) -> int:
            return 1

        def load(self, index: int) -> Any:
            raise BrokenImage('none')

    advised = []
    for dataset in (ImageFolder(clean / 'train'), ImageFolder(clean / 'train', decoder='cv2'), Own()):
        with pytest.raises(BrokenImage) as broken:
            dataset[0]
        advised += re.findall('"unmix doctor (.*)" lists', str(broken.value))
    assert advised == [str(clean / 'train'), 'CONFIG', 'CONFIG']
    assert status_of(advised[0]) == 1
    assert 'a/00.jpg' in capsys.readouterr().out
    (tmp_path / 'videos').mkdir()
    (tmp_path / 'videos' / 'x.mp4').write_bytes(b'none')
    (tmp_path / 'x.parquet').write_bytes(b'none')
    for name in ('videos', 'x.parquet'):
        assert status_of(tmp_path / name) == 1
        assert 'unmix doctor CONFIG' in capsys.readouterr().err
