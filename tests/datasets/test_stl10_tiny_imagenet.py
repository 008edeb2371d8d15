"""STL-10 and Tiny-ImageNet, read from files in the published formats."""

from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from unmix.datasets import STL10, TinyImageNet


def write_stl10(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Images column by column, as in the binary files; labels from 1; their own MD5 sums."""
    folder = root / 'stl10_binary'
    folder.mkdir(parents=True)
    images = {}
    for i, (name, size) in enumerate((('train', 4), ('test', 3), ('unlabeled', 2))):
        images[name] = np.random.default_rng(i).integers(0, 256, (size, 3, 96, 96), dtype=np.uint8)
        images[name].transpose(0, 1, 3, 2).tofile(folder / f'{name}_X.bin')
    np.array([3, 1, 10, 2], dtype=np.uint8).tofile(folder / 'train_y.bin')
    np.array([5, 5, 1], dtype=np.uint8).tofile(folder / 'test_y.bin')
    (folder / 'class_names.txt').write_text('\n'.join(f'class {i}' for i in range(10)))
    (folder / 'fold_indices.txt').write_text('0 1')
    reader = torchvision.datasets.STL10

    def signed(files: list) -> list:
        return [[name, md5((folder / name).read_bytes()).hexdigest()] for name, _ in files]

    copy = type('Reader', (reader,), {})
    copy.train_list, copy.test_list = signed(reader.train_list), signed(reader.test_list)
    monkeypatch.setattr(torchvision.datasets, 'STL10', copy)
    return images


def test_stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_stl10(tmp_path, monkeypatch)
    train, test = STL10(tmp_path, 'train', download=False), STL10(tmp_path, 'test')
    assert torch.equal(train.images, torch.from_numpy(images['train']))
    assert train.labels.tolist() == [2, 0, 9, 1]
    assert test.labels.tolist() == [4, 4, 0]
    assert (test.num_classes, train.classes[9]) == (10, 'class 9')
    both = STL10(tmp_path)
    assert torch.equal(both.images, torch.from_numpy(np.concatenate([images['train'], images['unlabeled']])))
    assert both.labels is None
    assert set(both[5]) == {'inputs', 'index'}
    with pytest.raises(ValueError, match=r"dataset\.split is 'val'; STL-10 has train, test"):
        STL10(tmp_path, 'val')
    (tmp_path / 'stl10_binary' / 'test_y.bin').write_bytes(b'damaged')
    with pytest.raises(ValueError, match=r'stl10_binary are damaged\. Delete them'):
        STL10(tmp_path, 'test')


def test_stl10_that_is_not_there_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'stl10_binary does not hold.*download is False.*data_root=DIR'):
        STL10(tmp_path, download=False)


def write_tiny(root: Path, annotations: bool) -> None:
    for i, wnid in enumerate(('n02', 'n01')):
        for j in range(2):
            write_image(root / 'train' / wnid / 'images' / f'{wnid}_{j}.JPEG', 10 * i + j)
    places = [f'val/{wnid}' for wnid in ('n01', 'n02')] if not annotations else ['val/images'] * 2
    for i, place in enumerate(places):
        write_image(root / place / f'val_{i}.JPEG', i)
    if annotations:
        lines = ['val_0.JPEG\tn01\t0\t0\t9\t9', 'val_1.JPEG\tn02\t0\t0\t9\t9']
        (root / 'val' / 'val_annotations.txt').write_text('\n'.join(lines))


def write_image(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('L', (64, 64), grey).save(path)


@pytest.mark.parametrize('annotations', [True, False], ids=['as distributed', 'rearranged'])
def test_tiny_imagenet(tmp_path: Path, annotations: bool) -> None:
    write_tiny(tmp_path, annotations)
    train, test = TinyImageNet(tmp_path), TinyImageNet(tmp_path, 'test')
    assert train.classes == test.classes == ('n01', 'n02')
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert test.labels.tolist() == [0, 1] == [test[i]['label'] for i in range(2)]
    assert test[1]['inputs'].shape == (3, 64, 64)
    assert test[1]['inputs'].float().mean() == pytest.approx(1, abs=1)


def test_tiny_imagenet_bad_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'there is no folder .*train'):
        TinyImageNet(tmp_path)
    with pytest.raises(ValueError, match="split is 'val'; expected 'train' or 'test'"):
        TinyImageNet(tmp_path, 'val')
    write_tiny(tmp_path, annotations=True)
    write_image(tmp_path / 'val' / 'images' / 'val_2.JPEG', 0)
    with pytest.raises(ValueError, match=r'val_annotations\.txt has no line for 1 images, e\.g\. val_2\.JPEG'):
        TinyImageNet(tmp_path, 'test')
