"""Images that cannot be read: what the error says; what takes their places, against a naive loop."""

import errno
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_toy import toy_runner
from PIL import Image
from test_caches import CROP
from test_storage import Shelf
from test_train_loop import assert_same, state
from torch.utils.data import ConcatDataset, DataLoader

from unmix.checkpoint.data import difference, fingerprint
from unmix.datasets import (
    BaseDataset,
    BrokenImage,
    EpochSampler,
    FirstImages,
    ImageFolder,
    MixtureDataset,
    SampleKey,
    SlidingWindowSampler,
    Subset,
    WeightedSampler,
    collate,
    decode,
)
from unmix.datasets.broken import GIVE_UP
from unmix.registry import DATASETS

N = 23
PIPELINE = dict(type='MultiView', num_views=2, transforms=[dict(type='RandomResizedCrop', size=8)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of one colour each, which is their number."""
    for number in range(N):
        path = tmp_path / 'images' / f'{number % 2}' / f'{number:02}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (12, 12), (number, 0, 0)).save(path)
    return tmp_path / 'images'


def damage(folder: Path, *rows: int) -> None:
    names = ImageFolder(folder).paths.tolist()
    for row in rows:
        (folder / os.fsdecode(names[row])).write_bytes(b'no image')


def dataset(folder: Path, **changes: Any) -> ImageFolder:
    return ImageFolder(folder, pipeline=PIPELINE, broken='skip', **changes)


def loader(data: Any, sampler: Any, batch: int = 4, workers: int = 0, drop_last: bool = False) -> DataLoader[Any]:
    return DataLoader(data, batch, sampler=sampler, num_workers=workers, drop_last=drop_last, collate_fn=collate)


def expected(order: list[int], batch: int, bad: set[int]) -> list[list[int]]:
    """The first readable images from the place of each batch on, once round."""
    batches = []
    for start in range(0, len(order), batch):
        size = len(order[start : start + batch])
        readable = [index for index in order[start:] + order[:start] if index not in bad]
        batches.append(readable[:size])
    return batches


@pytest.mark.parametrize('bad', [(7,), (3, 4, 5), (0, 22), tuple(range(0, 22, 2))])
def test_the_next_images_of_the_order_take_their_places(folder: Path, bad: tuple[int, ...]) -> None:
    damage(folder, *bad)
    data = dataset(folder)
    sampler = EpochSampler(data, seed=1)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        order = [key.index for key in sampler]
        found = list(loader(data, sampler))
        assert [batch['index'].tolist() for batch in found] == expected(order, 4, set(bad))
        for batch in found:
            assert len(set(batch['index'].tolist())) == len(batch['index'])
            assert batch['label'].tolist() == data.labels[batch['index']].tolist()
            for row, index in enumerate(batch['index'].tolist()):  # views of the image itself
                item = data[SampleKey(index, epoch, 1)]
                assert all(
                    torch.equal(view[row], own) for view, own in zip(batch['inputs'], item['inputs'], strict=True)
                )


def test_two_broken_in_a_row(folder: Path) -> None:
    plain = EpochSampler(range(N), seed=1)
    order = [key.index for key in plain]
    bad = {order[4], order[5], order[8]}  # the replacing one of the first two is broken, too
    damage(folder, *bad)
    data = dataset(folder)
    assert [b['index'].tolist() for b in loader(data, EpochSampler(data, seed=1))] == expected(order, 4, bad)


@pytest.mark.parametrize('workers', [1, 3])
def test_workers_ranks_and_resuming_change_nothing(folder: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(folder, 2, 3, 11)
    for rank in range(2):
        monkeypatch.setattr('unmix.datasets.samplers.keys.get_dist_info', lambda rank=rank: (rank, 2))
        data = dataset(folder)
        sampler = EpochSampler(data, seed=2, round_up=False)
        sampler.set_epoch(1)
        order = [key.index for key in sampler]
        assert sorted({index % N for index in order}) == sorted(order)
        own = list(loader(data, sampler))
        assert [batch['index'].tolist() for batch in own] == expected(order, 4, {2, 3, 11})
        sampler.set_start(4)
        resumed = list(loader(data, sampler, workers=workers))
        assert len(resumed) == len(own) - 1
        for a, b in zip(own[1:], resumed, strict=True):
            assert torch.equal(a['index'], b['index'])
            assert all(torch.equal(x, y) for x, y in zip(a['inputs'], b['inputs'], strict=True))


def test_images_that_the_epoch_leaves_out_take_places_at_its_end(folder: Path) -> None:
    order = [key.index for key in EpochSampler(range(N), seed=5)]
    damage(folder, order[17])
    data = dataset(folder)
    batches = [b['index'].tolist() for b in loader(data, EpochSampler(data, seed=5), drop_last=True)]
    assert batches[-1] == [order[16], *order[18:21]]
    seen = [index for batch in batches for index in batch]
    assert len(set(seen)) == len(seen) == 20  # each at most once


@pytest.mark.parametrize('batch', [21, 22, 23, 64])
@pytest.mark.parametrize('bad', [(0, 7), (21, 22)])
def test_a_batch_is_smaller_where_fewer_images_can_be_read(folder: Path, batch: int, bad: tuple[int, int]) -> None:
    """So an evaluation has all images that can be read, each of which it keeps once."""
    damage(folder, *bad)
    data = dataset(folder)
    batches = [b['index'].tolist() for b in loader(data, EpochSampler(data, shuffle=False), batch)]
    readable = [index for index in range(N) if index not in bad]
    assert batches[0] == readable[:batch]
    assert sorted({index for one in batches for index in one}) == readable
    assert all(len(set(one)) == len(one) for one in batches)


def test_wrappers_and_samplers_keep_their_own_numbers(folder: Path) -> None:
    damage(folder, 4, 9)
    (folder.parent / 'list.txt').write_bytes(b'\n'.join(ImageFolder(folder).paths.tolist()[3:]))
    part = Subset(dataset(folder), files=folder.parent / 'list.txt')
    sampler = EpochSampler(part, seed=0)
    order = [key.index for key in sampler]
    assert [b['index'].tolist() for b in loader(part, sampler)] == expected(order, 4, {1, 6})
    first = FirstImages(dataset(folder), 12)
    sampler = EpochSampler(first, seed=0)
    order = [key.index for key in sampler]
    assert [b['index'].tolist() for b in loader(first, sampler)] == expected(order, 4, {4, 9})
    data = dataset(folder)
    window = SlidingWindowSampler(data, 8, 4, seed=0)
    order = [key.index for key in window]
    assert [b['index'].tolist() for b in loader(data, window)] == expected(order, 4, {4, 9})
    drawn = WeightedSampler(data, [1.0] * 9 + [9.0] + [1.0] * 13, seed=0)
    assert not {4, 9} & {index for b in loader(data, drawn) for index in b['index'].tolist()}
    mixed = MixtureDataset(dataset(folder), dict(type='Mixup'), prob=1.0)
    sampler = EpochSampler(mixed, seed=0)
    order = [key.index for key in sampler]  # no image is left out because of its partner
    assert [b['index'].tolist() for b in loader(mixed, sampler)] == expected(order, 4, {4, 9})


def test_without_a_sampler_of_unmix_it_is_the_order_of_the_data_set(folder: Path) -> None:
    damage(folder, 3)
    indices = [b['index'].tolist() for b in DataLoader(dataset(folder), 4, collate_fn=collate)]
    assert indices[:2] == [[0, 1, 2, 4], [4, 5, 6, 7]]
    other = ConcatDataset([dataset(folder)])
    with pytest.raises(BrokenImage, match=r'It is number 3 of the data set'):
        list(DataLoader(other, 4, collate_fn=collate))
    with pytest.raises(BrokenImage, match=r'It is number 3 of the data set'):
        dataset(folder)[3]  # that image is asked for


def test_all_broken_and_a_lost_disk_are_errors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damage(folder, *range(N))
    data = dataset(folder)
    with pytest.raises(BrokenImage, match=r'the last 23 in the order .*disk or server.*cannot be read \(it is empty'):
        next(iter(loader(data, EpochSampler(data, seed=0))))

    class Lost(BaseDataset):
        tries = 0

        def __len__(self) -> int:
            return 10**6

        def load(self, index: int) -> Any:
            self.tries += 1
            raise OSError(errno.ESTALE, 'Stale file handle')

    lost = Lost(broken='skip')
    with pytest.raises(BrokenImage, match=f'the last {GIVE_UP} in the order .*Stale file handle'):
        lost.__getitems__([5, 6])
    assert lost.tries < 2 * GIVE_UP


def test_the_error_names_file_and_number_and_how_to_list_all(folder: Path) -> None:
    damage(folder, 5)
    data = ImageFolder(folder, pipeline=PIPELINE)
    expected = (
        f'The image {folder}/0/10.png cannot be read (it is empty, or no image of a format that PIL knows). Replace or '
        f'delete the file. It is number 5 of the data set. "unmix doctor {folder}" lists all such images; with '
        "dataset.broken='skip' a loader takes others in their places."
    )
    for workers in (0, 1):
        with pytest.raises(BrokenImage, match=re.escape(expected)):
            list(loader(data, EpochSampler(data, seed=0), workers=workers))
    with pytest.raises(ValueError, match=r"dataset.broken is 'pass'; expected one of 'error', 'skip'"):
        ImageFolder(folder, broken='pass')


FAULTS = {
    'vanished': (lambda path: path.unlink(), r'\(No such file or directory\)'),
    'empty': (lambda path: path.write_bytes(b''), r'\(it is empty, or no image'),
    'text': (lambda path: path.write_text('<html>'), r'\(it is empty, or no image'),
    'truncated': (lambda path: path.write_bytes(path.read_bytes()[:50]), 'cannot be read'),
    'a folder': (lambda path: (path.unlink(), path.mkdir()), r'\(Is a directory\)'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_faults_in_mid_epoch(folder: Path, fault: str) -> None:
    harm, reason = FAULTS[fault]
    for policy in ('error', 'skip'):
        data = dataset(folder) if policy == 'skip' else ImageFolder(folder, pipeline=PIPELINE)
        batches = iter(loader(data, EpochSampler(data, shuffle=False, seed=0)))
        next(batches)
        path = folder / os.fsdecode(data.paths[6])
        if policy == 'error':
            whole = path.read_bytes()
            harm(path)
            with pytest.raises(BrokenImage, match=reason):
                next(batches)
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            path.write_bytes(whole)
        else:
            harm(path)
            assert next(batches)['index'].tolist() == [4, 5, 7, 8]


def test_a_process_without_files_or_memory_is_not_the_fault_of_an_image(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_file(*args: Any) -> None:
        raise OSError(errno.EMFILE, 'Too many open files')

    monkeypatch.setattr(decode, 'open', no_file, raising=False)
    with pytest.raises(OSError, match='Too many open files'):
        dataset(folder).__getitems__([0, 1])


def test_data_sets_of_users_whose_images_are_read_late(tmp_path: Path) -> None:
    """PIL opens a file when it is asked to, and decodes it later."""
    for number in range(4):
        Image.new('RGB', (64, 64)).save(tmp_path / f'{number}.png')
    cut = tmp_path / '2.png'
    cut.write_bytes(cut.read_bytes()[:60])

    class Own(BaseDataset):
        def __len__(self) -> int:
            return 4

        def load(self, index: int) -> Any:
            return Image.open(tmp_path / f'{index}.png'), None

    with pytest.raises(BrokenImage, match=r'It is number 2 of the data set\. "unmix doctor CONFIG" lists'):
        Own().__getitems__([1, 2])
    items = Own(broken='skip').__getitems__([1, 2])
    assert [item['index'] for item in items] == [1, 3]


def test_every_folder_data_set_has_the_key(folder: Path) -> None:
    (folder.parent / 'train').symlink_to(folder)
    for name in ('ImageNet', 'TinyImageNet'):
        built = DATASETS.build(dict(type=name, data_root=folder.parent, split='train', broken='skip'))
        assert built.broken == 'skip'


def pictures(root: Path, count: int = 6) -> Path:
    """Write images of random pixels, half of them of each of two classes."""
    for number in range(count):
        path = root / 'ab'[number >= count // 2] / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, number)
    return root


def write(path: Path, seed: int) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)


def damaged_zip(root: Path, *rows: int) -> Path:
    """Pack a folder, with these members damaged."""
    path = root.parent / 'x.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
        for image in sorted(root.rglob('*.png')):
            file.writestr(image.relative_to(root).as_posix(), image.read_bytes())
        entries = file.infolist()
    data = bytearray(path.read_bytes())
    for row in rows:
        start = entries[row].header_offset + 30 + len(entries[row].filename)
        data[start : start + 20] = b'\xff' * 20
    path.write_bytes(data)
    return path


def test_what_cannot_be_read_is_alike_everywhere_and_a_repair_is_a_change(tmp_path: Path):
    root = pictures(tmp_path / 'data')
    lost = ImageFolder(root, broken='skip')
    whole = fingerprint(lost)
    packed = ImageFolder(damaged_zip(root, 3), broken='skip')
    listed = tmp_path / 'map.txt'
    listed.write_text(
        ''.join(f'{name.decode()}\t{int(number > 2)}\n' for number, name in enumerate(lost.paths.tolist()))
    )
    (root / 'b' / '3.png').unlink()
    at = dict(backend=Shelf.__name__.lower(), at=str(root.parent))
    stored = ImageFolder('data', map_file=listed, backend_args=at, broken='skip')
    then = fingerprint(lost)
    for dataset in (lost, packed, stored):
        with pytest.raises(BrokenImage):
            dataset[3]
        assert difference(then, fingerprint(dataset), dataset) is None
    assert difference(then, whole, lost) == '1 of 6 images have another content, first image 3, b/3.png (label 1)'
    other = ImageFolder(damaged_zip(root, 2), broken='skip')  # of the 5 that are left
    assert 'it had 6 images and has 5 now' in difference(then, fingerprint(other), other)
    write(root / 'b' / '3.png', 3)
    more = ImageFolder(damaged_zip(root, 3, 5), broken='skip')
    assert difference(then, fingerprint(more), more) == (
        '1 of 6 images have another content, first image 5, b/5.png (label 1)'
    )


@pytest.mark.parametrize('form', ['zip', 'backend'])
def test_a_run_with_images_that_cannot_be_read_continues_exactly(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture
):
    """An uninterrupted run is the oracle; images that cannot be read never come."""
    root = pictures(tmp_path / 'data', 12)
    if form == 'zip':
        where = dict(data_root=str(damaged_zip(root, 3, 8)))
    else:
        names = sorted(path.relative_to(root).as_posix() for path in root.rglob('*.png'))
        (tmp_path / 'map.txt').write_text(''.join(f'{name}\t0\n' for name in names))
        for row in (3, 8):
            (root / names[row]).unlink()
        at = dict(backend=Shelf.__name__.lower(), at=str(tmp_path))
        where = dict(data_root='data', map_file=str(tmp_path / 'map.txt'), backend_args=at)

    def runner(name: str, **changes):
        data = dict(type='ImageFolder', broken='skip', labelled=True, pipeline=CROP, _delete_=True) | where
        return toy_runner(
            tmp_path / name, train_dataloader__dataset=data, train_dataloader__collate_fn=dict(type='collate'),
            model=dict(type='ImageToy', dim=48), default_hooks__checkpoint__by_epoch=False,
            default_hooks__checkpoint__interval=2, default_hooks__checkpoint__max_keep_ckpts=-1, **changes,
        )  # fmt: skip

    whole = runner('whole')
    whole.train()
    assert len(whole.model.seen) == 9
    assert not {3, 8} & {index for batch in whole.model.seen for index in batch}
    second = runner('second', resume=True, load_from=str(tmp_path / 'whole' / 'iter_4.pth'))
    second.train()
    assert_same(state(second), state(whole))
    assert second.model.seen == whole.model.seen[4:]
    assert 'data set has changed since this checkpoint' not in capsys.readouterr().out
