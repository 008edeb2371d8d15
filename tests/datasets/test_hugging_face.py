"""Tables of the package ``datasets``: the batches of the folder, and columns that do not fit."""

import os
import pickle
from hashlib import blake2b
from pathlib import Path

import pytest
import torch
from test_archives import VIEWS, batches, images, same
from test_storage import Shelf

from unmix.checkpoint.data import difference, fingerprint
from unmix.datasets import BrokenImage, HuggingFaceDataset, ImageFolder, Subset, SubsetSampler

os.environ.setdefault('HF_HUB_OFFLINE', '1')  # nothing is looked for elsewhere
datasets = pytest.importorskip(
    'datasets', minversion='2.19', reason="needs the package datasets: pip install 'unmix[datasets]'"
)


@pytest.fixture(scope='module', autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path_factory.mktemp('cache'))
        datasets.disable_progress_bars()
        yield


def table(root: Path, **columns: list) -> object:
    """Return the images of a folder as a table, in the order of the folder."""
    folder = ImageFolder(root)
    names = [path.decode() for path in folder.paths.tolist()]
    files = [dict(bytes=(root / name).read_bytes(), path=os.path.basename(name)) for name in names]
    kinds = dict(image=datasets.Image(), label=datasets.ClassLabel(names=list(folder.classes)))
    content = dict(image=files, label=folder.labels.tolist())
    return datasets.Dataset.from_dict(content, features=datasets.Features(kinds))


def saved(root: Path, found: object) -> Path:
    found.save_to_disk(root / 'saved', num_shards=2)
    return root / 'saved'


def with_splits(root: Path, found: object) -> Path:
    datasets.DatasetDict(train=found, test=found.select([0])).save_to_disk(root / 'splits')
    return root / 'splits'


def parquet(root: Path, found: object) -> Path:
    (root / 'parquet').mkdir()
    found.select(range(7)).to_parquet(root / 'parquet' / 'train-0.parquet')
    found.select(range(7, 12)).to_parquet(root / 'parquet' / 'train-1.parquet')
    return root / 'parquet'


FORMS = {
    'saved': saved,
    'saved with splits': with_splits,
    'folder of parquet': parquet,
    'parquet': lambda root, found: parquet(root, found) / 'train-*.parquet',
    'arrow': lambda root, found: saved(root, found) / '*.arrow',
}


@pytest.mark.parametrize('form', FORMS)
def test_all_forms_give_the_batches_of_the_folder(tmp_path: Path, form: str) -> None:
    images(tmp_path / 'x')
    folder = ImageFolder(tmp_path / 'x', pipeline=VIEWS)
    path = FORMS[form](tmp_path, table(tmp_path / 'x'))
    for cache in ('none', 'full', 'part', 'decoded'):
        packed = HuggingFaceDataset(path, pipeline=VIEWS, cache=cache)
        assert same(batches(folder), batches(packed))
    caches = [HuggingFaceDataset(path, label=label, cache='decoded')._kept for label in ('label', None)]
    assert caches == [packed._kept] * 2  # one copy
    assert (packed.classes, packed.paths.tolist()) == (folder.classes, folder.paths.tolist())
    assert difference(fingerprint(folder), fingerprint(packed), packed) is None
    assert packed.files.sizes().tolist() == folder.files.sizes().tolist()
    again = pickle.loads(pickle.dumps(packed))
    assert torch.equal(again.load(5)[0], folder.load(5)[0])
    assert Subset(packed, per_class=1).labels.tolist() == [0, 1, 2]
    assert HuggingFaceDataset(path, label=None).labels is None


@pytest.mark.slow
@pytest.mark.parametrize('context', ['fork', 'spawn'])
def test_workers(tmp_path: Path, context: str) -> None:
    images(tmp_path / 'x')
    folder = ImageFolder(tmp_path / 'x', pipeline=VIEWS)
    packed = HuggingFaceDataset(saved(tmp_path, table(tmp_path / 'x')), pipeline=VIEWS)
    assert same(batches(folder), batches(packed, 2, context))


def test_what_is_refused(tmp_path: Path) -> None:
    images(tmp_path / 'x')
    found = table(tmp_path / 'x')
    path = with_splits(tmp_path, found)
    assert len(HuggingFaceDataset(path, 'test')) == 1
    with pytest.raises(FileNotFoundError, match=r"no data set .* with a split 'val' \(it has the splits train, test\)"):
        HuggingFaceDataset(path, 'val')
    with pytest.raises(FileNotFoundError, match=r'dataset\.data_root: no data set .*none'):
        HuggingFaceDataset(tmp_path / 'none')
    with pytest.raises(FileNotFoundError, match=r'no data set .*none-\*\.parquet.*\(there is no such file\)'):
        HuggingFaceDataset(tmp_path / 'none-*.parquet')
    with pytest.raises(ValueError, match=r"dataset\.image is 'img', but the columns of .* are image, label\. Choose"):
        HuggingFaceDataset(path, image='img')
    with pytest.raises(ValueError, match=r"dataset\.label is 'y', but the columns .* Choose one of them, or None"):
        HuggingFaceDataset(path, label='y')
    with pytest.raises(
        ValueError, match=r"dataset\.image: the column 'label' of .* holds ClassLabel.*; expected images"
    ):
        HuggingFaceDataset(path, image='label')
    for wrong in (-1, None, 'cat', 1.5):
        name = tmp_path / f'{wrong}'
        found.remove_columns('label').add_column('label', [wrong] * 12).save_to_disk(name)
        with pytest.raises(
            ValueError, match=rf'12 of 12 labels .* no integers from 0; the first is {wrong!r} of image 0'
        ):
            HuggingFaceDataset(name)
    empty = datasets.Dataset.from_dict(dict(image=[], label=[]), features=found.features)
    empty.to_parquet(tmp_path / 'empty.parquet', batch_size=1)  # datasets 4.8 divides by 0 rows to choose it
    with pytest.raises(FileNotFoundError, match=r'dataset\.data_root: .*empty\.parquet.* (holds no image|no data)'):
        HuggingFaceDataset(tmp_path / 'empty.parquet')


def test_images_that_are_files_elsewhere(tmp_path: Path) -> None:
    from pyarrow import array, binary, parquet, string, struct
    from pyarrow import table as arrow

    images(tmp_path / 'x')
    values = [dict(bytes=None, path=str(tmp_path / 'x' / 'a' / name)) for name in ('0.jpg', '1.JPEG')]
    column = array(values, type=struct([('bytes', binary()), ('path', string())]))
    parquet.write_table(arrow(dict(image=column)), tmp_path / 'linked.parquet')
    for cache in ('none', 'full'):
        dataset = HuggingFaceDataset(tmp_path / 'linked.parquet', label=None, cache=cache)
        assert torch.equal(dataset.load(1)[0], ImageFolder(tmp_path / 'x').load(1)[0])
    Shelf.read.clear()
    stored = HuggingFaceDataset(tmp_path / 'linked.parquet', label=None, backend_args=dict(backend='shelf', at='/'))
    assert torch.equal(stored.load(1)[0], dataset.load(1)[0])
    assert Shelf.read == [str(tmp_path / 'x' / 'a' / '1.JPEG')]
    (tmp_path / 'x' / 'a' / '1.JPEG').unlink()
    assert dataset.load(1)[0].shape == (3, 16, 16)  # in the memory
    lost = HuggingFaceDataset(tmp_path / 'linked.parquet', label=None, broken='skip')
    assert fingerprint(lost)['contents'].tolist() == [
        fingerprint(dataset)['contents'][0].item(),
        int.from_bytes(blake2b(b'', digest_size=8).digest(), 'little', signed=True),
    ]
    with pytest.raises(
        ValueError, match=r'linked\.parquet@/1 \(1\.JPEG\) has no bytes in the table, and its file .*1\.JPEG'
    ):
        HuggingFaceDataset(tmp_path / 'linked.parquet', label=None).load(1)


def test_a_single_saved_set_is_its_own_split_only(tmp_path: Path) -> None:
    images(tmp_path / 'x')
    content = table(tmp_path / 'x')
    content.save_to_disk(tmp_path / 'unknown')
    named = datasets.Dataset.from_dict(content.to_dict(), features=content.features, split='train')
    named.save_to_disk(tmp_path / 'named')
    assert len(HuggingFaceDataset(tmp_path / 'unknown', 'test')) == 12  # it does not say which it is
    assert len(HuggingFaceDataset(tmp_path / 'named')) == 12
    with pytest.raises(
        FileNotFoundError, match=r"named' with a split 'test' \(it is the split 'train' by itself\)\. Give"
    ):
        HuggingFaceDataset(tmp_path / 'named', 'test')


def test_names_that_several_images_have_cannot_be_listed(tmp_path: Path) -> None:
    images(tmp_path / 'x')
    content = table(tmp_path / 'x')
    values = content.to_dict()
    for row in (1, 3, 6):  # two in class a, one in the next
        values['image'][row] = values['image'][row] | dict(path='image.png')
    datasets.Dataset.from_dict(values, features=content.features).save_to_disk(tmp_path / 'saved')
    dataset = HuggingFaceDataset(tmp_path / 'saved')
    listed = tmp_path / 'list.txt'

    def rows(*names: str) -> list[int]:
        listed.write_text('\n'.join(names))
        return Subset(dataset, files=listed).rows.tolist()

    assert rows('a/0.jpg', 'b é/image.png') == [0, 6]  # which have no double
    for names in (['a/image.png'], ['a/0.jpg', 'a/image.png']):
        with pytest.raises(
            ValueError, match=r'1 names in .* several images: a/image\.png; .* numbers 1, 3\. Choose .*SubsetSampler'
        ):
            rows(*names)
    with pytest.raises(ValueError, match=r'several images: image\.png; the first of .* numbers 1, 3, 6\. Choose'):
        rows('image.png', 'b é/image.png')
    assert SubsetSampler(dataset, indices=[1, 3], shuffle=False).order(0).tolist() == [1, 3]  # what the message says


@pytest.mark.parametrize('cache', ['full', 'part', 'decoded'])
@pytest.mark.parametrize('lost', [0, 3])
def test_a_cache_leaves_out_what_cannot_be_read(tmp_path: Path, cache: str, lost: int) -> None:
    from pyarrow import array, binary, parquet, string, struct
    from pyarrow import table as arrow

    images(tmp_path / 'x')
    folder = ImageFolder(tmp_path / 'x', labelled=False)
    values = [dict(bytes=None, path=str(tmp_path / 'x' / name.decode())) for name in folder.paths.tolist()]
    values[lost] = dict(bytes=None, path=str(tmp_path / 'gone.png'))
    column = array(values, type=struct([('bytes', binary()), ('path', string())]))
    parquet.write_table(arrow(dict(image=column)), tmp_path / 'linked.parquet')
    cached = HuggingFaceDataset(tmp_path / 'linked.parquet', label=None, cache=cache, broken='skip')
    kept = [number for number in range(12) if number != lost]
    assert [item['index'] for item in cached.__getitems__(range(11))] == kept
    assert all(torch.equal(cached.load(number)[0], folder.load(number)[0]) for number in kept)
    with pytest.raises(BrokenImage, match=r'gone\.png'):
        cached[lost]
