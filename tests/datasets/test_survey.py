"""What a look at a folder finds, by folders whose content is known."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unmix.datasets import ImageFolder, Subset
from unmix.datasets.survey import estranged, survey


def images(folder: Path, sizes: Iterable[tuple[int, int]], mode: str = 'RGB', suffix: str = 'png') -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, size in enumerate(sizes):
        Image.new(mode, size, 30 * i).save(folder / f'{mode}{i}.{suffix}')


def test_classes_sizes_and_channels(tmp_path: Path) -> None:
    images(tmp_path / 'a', [(40, 30), (30, 90), (31, 32)])
    images(tmp_path / 'b', [(10, 200)], mode='L')
    (tmp_path / 'b' / 'notes.txt').write_text('no image')
    facts = survey(tmp_path)
    assert (facts.images, facts.classes) == (4, (3, 1))
    assert (facts.side, facts.smallest, facts.largest) == (30, 10, 200)
    assert facts.modes == (('RGB', 3), ('L', 1))
    assert not facts.grey
    assert (facts.broken, facts.tested, facts.root) == ((), None, str(tmp_path))


def drawn(folder: Path, number: int, both_ways: bool, centred: bool = True, copies: int = 1) -> Path:
    """Bright wedges on black, which point to the right, or to either side; not centred are random blocks."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows, columns = np.mgrid[:24, :24] / 23 - 0.5
    for i in range(number):
        width, slope, shift = rng.uniform(0.1, 0.4, 3)
        wedge = (np.abs(rows - shift + 0.25) < width + slope * columns) & (np.abs(columns) < 0.4)
        wedge = wedge[:, ::-1] if both_ways and rng.random() < 0.5 else wedge
        pixels = wedge * 255
        if not centred:
            pixels = rng.integers(0, 256, (6, 6)).repeat(8, 0).repeat(8, 1)
        for copy in range(copies):
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f'{i}_{copy}.png')
    return folder


def test_what_a_change_makes_of_images(tmp_path: Path) -> None:
    """Wedges that point to the right only are not like their mirror images, and none is like its own middle."""
    right = survey(drawn(tmp_path / 'right', 150, both_ways=False))
    either = survey(drawn(tmp_path / 'either', 150, both_ways=True))
    blocks = survey(drawn(tmp_path / 'blocks', 150, both_ways=True, centred=False))
    assert right.mirrored is not None
    assert either.mirrored is not None
    assert blocks.mirrored is not None
    assert right.mirrored > 0.9
    assert abs(either.mirrored - 0.5) < 0.12
    assert abs(blocks.mirrored - 0.5) < 0.12
    assert right.cropped is not None
    assert right.cropped > 0.9


def test_too_few_images_and_copies_tell_nothing_of_a_change(tmp_path: Path) -> None:
    assert survey(drawn(tmp_path / 'few', 50, both_ways=False)).mirrored is None
    assert survey(drawn(tmp_path / 'copies', 100, both_ways=True, copies=2)).mirrored is None
    symmetric = torch.rand(150, 4, generator=torch.Generator().manual_seed(0))
    assert estranged(symmetric, symmetric.clone()) is None


def test_images_without_folders(tmp_path: Path) -> None:
    images(tmp_path, [(8, 8)] * 3, mode='L')
    facts = survey(tmp_path)
    assert (facts.images, facts.classes, facts.grey) == (3, (), True)


def test_a_folder_without_images_is_no_class(tmp_path: Path) -> None:
    """The images are there, so the training has no reason to end; there are no labels then."""
    for name in ('a', 'b'):
        images(tmp_path / name, [(8, 8)] * 2)
    (tmp_path / 'empty').mkdir()
    facts = survey(tmp_path)
    assert (facts.images, facts.classes) == (4, ())


def test_broken_images_are_named(tmp_path: Path) -> None:
    """A text named .png, an empty file, and a JPEG whose end is missing."""
    images(tmp_path, [(64, 64)] * 5, suffix='jpg')
    (tmp_path / 'text.png').write_text('no image')
    (tmp_path / 'empty.jpg').touch()
    whole = (tmp_path / 'RGB0.jpg').read_bytes()
    (tmp_path / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
    facts = survey(tmp_path)
    assert facts.broken == ('cut.jpg', 'empty.jpg', 'text.png')
    assert facts.images == 8


def test_a_folder_of_broken_images(tmp_path: Path) -> None:
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(ValueError, match=r'none of 1 images can be read, e\.g\. text\.png'):
        survey(tmp_path)


@pytest.mark.parametrize('name', ['val', 'valid', 'validation', 'test'])
def test_a_folder_that_is_divided_already(name: str, tmp_path: Path) -> None:
    for part, classes in (('train', 'abc'), (name, 'ab')):
        for one in classes:
            images(tmp_path / part / one, [(9, 9)] * 2)
    facts = survey(tmp_path)
    assert (facts.images, facts.classes) == (6, (2, 2, 2))
    assert (facts.root, facts.tested) == (str(tmp_path / 'train'), str(tmp_path / name))


@pytest.mark.parametrize(
    ('parts', 'reason'),
    [
        ({'train/a': 2, 'train/b': 2, 'val/a': 1, 'val/z': 1}, 'it has classes that the images to train on lack, z.'),
        ({'train/a': 2, 'train/b': 2, 'val': 1}, 'its images are in no folders of their classes.'),
        ({'train/a': 2, 'train/b': 2, 'val/a': 0}, 'it has no images.'),
        ({'train': 4, 'val/a': 1, 'val/b': 1}, 'the images to train on are in no class folders.'),
    ],
)
def test_images_to_test_on_that_do_not_fit_are_not_trained_on(
    parts: dict[str, int], reason: str, tmp_path: Path
) -> None:
    for name, number in parts.items():
        images(tmp_path / name, [(9, 9)] * number)
    facts = survey(tmp_path)
    assert (facts.root, facts.tested, facts.images) == (str(tmp_path / 'train'), None, 4)
    assert facts.notes == (f'{tmp_path / "val"} is not tested on: {reason}',)


@pytest.mark.parametrize(('train', 'val'), [('Train', 'Test'), ('training', 'testing'), ('TRAIN', 'VALIDATION')])
def test_what_lies_beside_the_parts_is_no_class(train: str, val: str, tmp_path: Path) -> None:
    """Such as what operating systems and archives leave, which is not even named, and other images, which are."""
    for part in (train, val, '__MACOSX/train', 'lost+found', '.cache'):
        for one in ('a', 'b'):
            images(tmp_path / part / one, [(9, 9)] * 2)
    images(tmp_path / val, [(9, 9)])
    (tmp_path / val / 'empty').mkdir()
    facts = survey(tmp_path)
    assert (facts.root, facts.tested) == (str(tmp_path / train), str(tmp_path / val))
    assert (facts.images, facts.classes, facts.notes) == (4, (2, 2), ())
    images(tmp_path / 'unlabeled', [(9, 9)] * 3)
    images(tmp_path, [(9, 9)])
    assert survey(tmp_path).images == 4
    assert survey(tmp_path).notes == (
        f'{tmp_path} has {train} and {val}, so RGB0.png, unlabeled beside them is not used.',
    )


def test_options_of_the_data_set_are_those_of_the_facts(tmp_path: Path) -> None:
    for number, name in enumerate('abc', 1):
        images(tmp_path / 'images' / name, [(9, 9)] * number)
    (tmp_path / 'two.txt').write_text('a\nc\n')
    assert survey(tmp_path / 'images', class_list=str(tmp_path / 'two.txt')).classes == (1, 3)
    assert survey(tmp_path / 'images', labelled=False).classes == ()
    with pytest.raises(ValueError, match=r'--data is the file .*two\.txt; expected a folder'):
        survey(tmp_path / 'two.txt')


def test_no_folder_and_no_image(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='there is no folder'):
        survey(tmp_path / 'lost')
    with pytest.raises(FileNotFoundError, match='holds no image'):
        survey(tmp_path)


def test_what_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    for name, number in (('a', 7), ('b', 12), ('c', 1)):
        images(tmp_path / name, [(8, 8)] * number)
    tested, trained = (Subset(ImageFolder(tmp_path), share=0.2, rest=rest) for rest in (False, True))
    assert sorted(tested.rows.tolist() + trained.rows.tolist()) == list(range(20))
    assert tested.labels is not None
    assert tested.labels.tolist() == [0] * 2 + [1] * 3 + [2]
    part = Subset(trained, num_images=5)
    assert len(part) == 5
    assert set(part.paths.tolist()) < set(trained.paths.tolist())
    assert part.rows.tolist() == Subset(trained, num_images=5).rows.tolist()
    assert part.rows.tolist() != Subset(trained, num_images=5, seed=1).rows.tolist()
    assert len(Subset(trained, num_images=50)) == len(trained)
    with pytest.raises(ValueError, match='no image is left'):
        Subset(trained, share=1.0, rest=True)
