"""Data sets, and what they say when the data are bad."""

import gzip
import pickle
import re
import struct
import sys
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.utils.data import DataLoader

from unmix import datasets
from unmix.datasets import (
    CIFAR10,
    CIFAR100,
    MNIST,
    ArrayDataset,
    BaseDataset,
    Digits,
    FashionMNIST,
    ImageFolder,
    ImageNet,
    SampleKey,
    collate,
    read_idx,
)
from unmix.registry import DATASETS

JITTER = dict(type='BatchMultiView', transforms=[dict(type='BatchColorJitter')])


class Stripes(BaseDataset):
    """The example of BaseDataset's docstring."""

    def __len__(self) -> int:
        return 6

    def load(self, index: int) -> tuple[Image.Image, int | None]:
        return Image.new('RGB', (8, 8), (2 * index, 0, 0)), index % 2 if index < 4 else None


def test_a_data_set_is_one_small_class() -> None:
    dataset = Stripes()
    item = dataset[SampleKey(3, 1, 0)]
    assert sorted(item) == ['index', 'inputs', 'label']
    assert (item['index'], item['label']) == (3, 1)
    assert torch.equal(item['inputs'][0], torch.full((8, 8), 6, dtype=torch.uint8))
    assert 'label' not in dataset[5]
    batch = collate([dataset[0], dataset[1]])
    assert batch['inputs'].shape == (2, 3, 8, 8)
    assert batch['index'].tolist() == [0, 1]
    assert len(Stripes(JITTER)[0]['inputs']) == 2
    assert collate(batch) is batch


def test_batches_that_do_not_fit_are_explained() -> None:
    with pytest.raises(ValueError, match='Label all images or none'):
        collate([Stripes()[0], Stripes()[5]])
    sizes = [dict(inputs=torch.zeros(3, side, 8), index=0) for side in (8, 9)]
    with pytest.raises(ValueError, match=r'different sizes: \[\(3, 8, 8\), \(3, 9, 8\)\].*CenterCrop'):
        collate(sizes)


def test_array_batches_are_the_items() -> None:
    images, labels = torch.rand(10, 2, 6, 6) * 255, np.arange(10) % 3
    for pipeline in (None, JITTER):
        dataset = ArrayDataset(images, labels, pipeline)
        keys = [SampleKey(index, 2, 1) for index in (7, 0, 3)]
        batch = dataset.__getitems__(keys)
        for row, key in enumerate(keys):
            item = dataset[key]
            assert (batch['index'][row], batch['label'][row]) == (item['index'], item['label'])
            views = (
                zip(batch['inputs'], item['inputs'], strict=True) if pipeline else [(batch['inputs'], item['inputs'])]
            )
            for whole, alone in views:
                torch.testing.assert_close(whole[row], alone)
    assert dataset.num_classes == 3
    unlabelled = ArrayDataset(images)
    assert 'label' not in next(iter(DataLoader(unlabelled, 4, collate_fn=collate)))
    assert unlabelled.num_classes is None


@pytest.mark.parametrize('shape', [(0, 1, 8, 8), (5, 8, 8)])
def test_array_shapes_are_checked(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r'images are \(N, C, H, W\)'):
        ArrayDataset(torch.zeros(shape))
    with pytest.raises(ValueError, match='3 images, but labels of shape'):
        ArrayDataset(torch.zeros(3, 1, 8, 8), [0, 1])


def test_digits() -> None:
    train, test = Digits(), Digits('test')
    assert (len(train), len(test)) == (1257, 540)
    targets = load_digits().target
    assert torch.equal(torch.cat([train.labels, test.labels]), torch.from_numpy(targets))
    assert test.labels.bincount().tolist() == np.bincount(targets[1257:]).tolist()
    assert (train.num_classes, train.images.dtype) == (10, torch.float32)
    raw = torch.from_numpy(load_digits().images).float()[:, None] * 255 / 16
    torch.testing.assert_close(Digits(size=8).images, raw[:1257])
    up = F.interpolate(raw[1257:], size=(16, 16), mode='bicubic', align_corners=False).clamp(0, 255)
    torch.testing.assert_close(test.images, up, rtol=1e-5, atol=1e-3)
    with pytest.raises(ValueError, match=r"dataset\.split is 'dev'; expected 'train', 'test', 'fit' or 'val'"):
        Digits('dev')


def test_writers_of_the_digits() -> None:
    """A writer begins with 0 to 9 three times, or nearly so: 'val' begins and ends with a writer."""
    fit, val, train = Digits('fit'), Digits('val'), Digits('train')
    assert (len(fit), len(val)) == (776, 381)
    assert torch.equal(torch.cat([fit.images, val.images]), train.images[:1157])
    for start in (0, 776, 1157):
        assert train.labels[start : start + 30].tolist() == [*range(10)] * 3


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f'>BBBB{array.ndim}I', 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def test_idx_reader(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (5, 3, 4), dtype=np.uint8)
    (tmp_path / 'plain').write_bytes(idx_bytes(array))
    (tmp_path / 'zipped.gz').write_bytes(gzip.compress(idx_bytes(array)))
    for name in ('plain', 'zipped.gz'):
        np.testing.assert_array_equal(read_idx(tmp_path / name), array)
    (tmp_path / 'short').write_bytes(idx_bytes(array)[:-7])
    with pytest.raises(ValueError, match=r'short has 53 bytes of data, not \[5, 3, 4\]'):
        read_idx(tmp_path / 'short')
    (tmp_path / 'half.gz').write_bytes(gzip.compress(idx_bytes(array))[:-20])
    with pytest.raises(ValueError, match=r'half\.gz cannot be read'):
        read_idx(tmp_path / 'half.gz')
    (tmp_path / 'text').write_text('no images')
    with pytest.raises(ValueError, match='text is no idx file'):
        read_idx(tmp_path / 'text')


def write_mnist(folder: Path, suffix: str = '') -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir(parents=True)
    images = np.random.default_rng(1).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    for name, array in (('images-idx3', images), ('labels-idx1', labels)):
        data = idx_bytes(array)
        (folder / f't10k-{name}-ubyte{suffix}').write_bytes(gzip.compress(data) if suffix else data)
    return images, labels


@pytest.mark.parametrize(('place', 'suffix'), [('FashionMNIST/raw', ''), ('raw', '.gz'), ('.', '.gz')])
def test_mnist_is_found_in_its_places(tmp_path: Path, place: str, suffix: str) -> None:
    images, labels = write_mnist(tmp_path / 'data' / place, suffix)
    dataset = FashionMNIST(tmp_path / 'data', 'test', download=False)
    assert torch.equal(dataset.images[:, 0], torch.from_numpy(images))
    assert torch.equal(dataset.labels, torch.from_numpy(labels).long())


def test_mnist_in_the_system_folder_and_a_fixed_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = write_mnist(tmp_path / 'mnist', '.gz')
    monkeypatch.setattr('unmix.datasets.published.SYSTEM', tmp_path)
    part = MNIST(tmp_path / 'nothing', 'test', num_images=8)
    rows = [int(np.flatnonzero((images == image.numpy()).all((1, 2)))[0]) for image in part.images[:, 0]]
    assert len(set(rows)) == 8
    assert part.labels.tolist() == labels[rows].tolist()
    assert torch.equal(MNIST(tmp_path / 'nothing', 'test', num_images=5).images, part.images[:5])


def no_network(*args: object, **kwargs: object) -> None:
    raise OSError('Name or service\nnot known')


def test_no_data_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason, the places searched and the remedy, in one message."""
    monkeypatch.setattr('urllib.request.urlopen', no_network)
    monkeypatch.setattr('unmix.datasets.published.SYSTEM', tmp_path / 'usr')
    with pytest.raises(FileNotFoundError) as error:
        FashionMNIST(tmp_path)
    for part in ('FashionMNIST/raw', 'usr/fashion-mnist', 'not known', 'data_root=DIR', 'train-images-idx3-ubyte'):
        assert part in str(error.value)
    assert '\n' not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r'cifar-100-python does not hold.*not known\. Unpack.*data_root=DIR'):
        CIFAR100(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'dataset\.download is False'):
        CIFAR10(tmp_path, download=False)


def write_cifar(folder: Path, kind: type[CIFAR10], monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Files in the published format (rows of 3072 bytes, channel by channel), with their own MD5 sums."""
    pixels = np.random.default_rng(2).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    folder.mkdir(parents=True)
    sums = {}
    for name, data in (
        ('train', dict(data=pixels.reshape(4, -1), fine_labels=[5, 0, 99, 1])),
        ('test', dict(data=pixels[:1].reshape(1, -1), fine_labels=[7])),
        ('meta', {kind.reader.meta['key']: [f'class {i}' for i in range(100)]}),
    ):
        (folder / name).write_bytes(pickle.dumps(data))
        sums[name] = md5((folder / name).read_bytes()).hexdigest()
    reader = type('Reader', (kind.reader,), {})
    reader.train_list, reader.test_list = [['train', sums['train']]], [['test', sums['test']]]
    reader.meta = dict(kind.reader.meta, filename='meta', md5=sums['meta'])
    monkeypatch.setattr(kind, 'reader', reader)
    return pixels


def test_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / 'cifar-100-python'
    pixels = write_cifar(folder, CIFAR100, monkeypatch)
    dataset = CIFAR100(tmp_path, download=False)
    assert torch.equal(dataset.images, torch.from_numpy(pixels))
    assert dataset.labels.tolist() == [5, 0, 99, 1]
    assert (dataset.num_classes, dataset.metainfo['classes'][3]) == (100, 'class 3')
    assert len(CIFAR100(tmp_path, 'test')) == 1
    (folder / 'test').write_bytes(b'damaged')
    with pytest.raises(ValueError, match=r'cifar-100-python are damaged\. Delete them'):
        CIFAR100(tmp_path, 'test')


def write_image(path: Path, colour: int = 0, mode: str = 'RGB') -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (12, 10), colour).save(path)


def test_folder_with_classes(tmp_path: Path) -> None:
    for i, name in enumerate(('b/2.png', 'b/1.JPEG', 'a/deep/x.png', 'c/y.png')):
        write_image(tmp_path / name, i)
    (tmp_path / 'a' / 'notes.txt').write_text('no image')
    dataset = ImageFolder(tmp_path)
    assert dataset.classes == ('a', 'b', 'c')
    assert [bytes(path).decode() for path in dataset.paths] == ['a/deep/x.png', 'b/1.JPEG', 'b/2.png', 'c/y.png']
    assert dataset.labels.tolist() == [0, 1, 1, 2] == [dataset[i]['label'] for i in range(4)]
    assert dataset[0]['inputs'].shape == (3, 10, 12)
    assert dataset[0]['inputs'][0, 0, 0] == 2
    unlabelled = ImageFolder(tmp_path, labelled=False)
    assert (len(unlabelled), unlabelled.labels, 'label' in unlabelled[0]) == (4, None, False)
    assert isinstance(DATASETS.build(dict(type='ImageFolder', data_root=str(tmp_path))), ImageFolder)


def test_folder_without_classes(tmp_path: Path) -> None:
    write_image(tmp_path / 'grey.png', 7, 'L')
    write_image(tmp_path / 'sub' / 'palette.gif', 0, 'P')
    write_image(tmp_path / 'other' / 'x.bmp')
    dataset = ImageFolder(tmp_path)
    assert dataset.labels is None
    assert len(dataset) == 3
    assert all(dataset[i]['inputs'].shape == (3, 10, 12) for i in range(len(dataset)))
    one_folder = ImageFolder(tmp_path / 'sub' / '..', labelled=None)
    assert one_folder.labels is None


def test_bad_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'data_root: there is no folder .*nowhere .*data_root=DIR'):
        ImageFolder(tmp_path / 'nowhere')
    with pytest.raises(FileNotFoundError, match='holds no image'):
        ImageFolder(tmp_path)
    (tmp_path / 'readme.txt').write_text('')
    (tmp_path / 'a').mkdir()
    with pytest.raises(FileNotFoundError, match='holds no image'):
        ImageFolder(tmp_path)
    write_image(tmp_path / 'flat.png')
    with pytest.raises(FileNotFoundError, match=r'one sub-folder for each class, or set dataset\.labelled=False'):
        ImageFolder(tmp_path, labelled=True)
    write_image(tmp_path / 'b' / 'x.png')
    with pytest.raises(FileNotFoundError, match='no image in the class folders a'):
        ImageFolder(tmp_path, labelled=True)


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ('photo.jpg', 'photo.png'):
        Image.fromarray(noise).save(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:900])
    (tmp_path / 'text.png').write_text('no image')
    dataset = ImageFolder(tmp_path)
    for index, name in enumerate(('photo.jpg', 'photo.png', 'text.png')):
        with pytest.raises(ValueError, match=rf'The image .*{name} cannot be read .*Replace or delete'):
            dataset[index]
    with pytest.raises(ValueError, match=r'photo\.jpg cannot be read'):
        next(iter(DataLoader(dataset, num_workers=1)))


@pytest.mark.slow
def test_imagenet_and_its_class_lists(tmp_path: Path) -> None:
    lines = Path(datasets.__file__).with_name('imagenet100.txt').read_text().splitlines()
    names = [line for line in lines if not line.startswith('#')]
    assert len(set(names)) == 100
    assert all(re.fullmatch(r'n\d{8}', name) for name in names)
    for split in ('train', 'val'):
        for name in (*names, 'n99999999'):
            write_image(tmp_path / split / name / 'x.png')
    whole, part = ImageNet(tmp_path, 'val'), ImageNet(tmp_path, 'val', class_list='imagenet100.txt')
    assert (whole.num_classes, part.num_classes, len(part)) == (101, 100, 100)
    assert list(part.classes) == sorted(names)
    own = tmp_path / 'own.txt'
    own.write_text(f'# two\n{names[1]}\n{names[0]}  # the first\n\n')
    assert ImageNet(tmp_path, class_list=own).classes == tuple(sorted(names[:2]))
    own.write_text(f'{names[0]}\nn00000000\n')
    with pytest.raises(FileNotFoundError, match=r'class_list: 1 of its 2 classes have no folder in .*train: n00000000'):
        ImageNet(tmp_path, class_list=own)
    with pytest.raises(FileNotFoundError, match=r'class_list: there is no file none.txt'):
        ImageNet(tmp_path, class_list='none.txt')
    with pytest.raises(ValueError, match="split is 'test'; expected 'train' or 'val'"):
        ImageNet(tmp_path, 'test')
    with pytest.raises(FileNotFoundError, match=r'there is no folder .*nowhere'):
        ImageNet(tmp_path / 'nowhere')


def test_hugging_face_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(ImportError, match=r"needs the package datasets: pip install 'unmix\[datasets\]'"):
        DATASETS.build(dict(type='HuggingFaceDataset', data_root='x'))
