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

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from unmix.apis import doctor
from unmix.apis.doctor import examine_data
from unmix.cli import main
from unmix.datasets.decode import ORIENTATION

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


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    crop(30).save(path, exif=exif)


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
    (['lost'], "lost"), (['empty'], 'holds no image')])  # fmt: skip
def test_errors(arguments: list[str], message: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
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
