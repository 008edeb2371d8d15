"""Images in folders: any, ImageNet, Tiny-ImageNet."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmix.datasets.arrays import is_train
from unmix.datasets.base import BaseDataset, Pipeline, file_evidence
from unmix.datasets.decode import decode_image, readable_suffixes
from unmix.datasets.lists import read_list
from unmix.datasets.scan import Scan, count, say
from unmix.registry import DATASETS
from unmix.utils.names import byte_array, few, path_bytes, shown, text


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """The images below a folder, as RGB.

    Labelled: each sub-folder is a class, numbered in the order of their names, with images at any depth. Unlabelled:
    the images at any depth, in the order of their paths. :class:`~unmix.datasets.scan.Scan` says what is an image, and
    what becomes of links; one line of the log says what was found and passed over.

    Args:
        data_root: The folder.
        labelled: Whether the images have labels. None: if all images lie in sub-folders, and these are at least two.
        class_list: The classes, numbered in the order of their names; only these sub-folders are read, and some may
            have no image here. A file with a name in each line (:func:`~unmix.datasets.lists.read_list`), or a folder,
            for example of the training set, whose sub-folders are the classes. ``imagenet100.txt`` (the classes of `CMC
            <https://arxiv.org/abs/1906.05849>`_) comes with the package.
        pipeline: As for :class:`BaseDataset`.
        decode_size: Decode JPEGs of twice this size and more at a half to an eighth of theirs, but no side below it:
            faster for large photographs, not bit-equal; see :func:`decode_image`.
        exif: Turn photographs upright, as their EXIF orientation says. The released codes of the methods do not.
        broken: As for :class:`BaseDataset`.

    Attributes:
        paths: (N,) bytes, paths of the images below ``data_root``.

    Raises:
        FileNotFoundError: If the folder or the list does not exist, or there is no image, or, without a class list,
            none of a class.
        ValueError: If the folder cannot be read, or the list has no names.
    """

    def __init__(
        self,
        data_root: str | Path,
        labelled: bool | None = None,
        class_list: str | Path | None = None,
        pipeline: dict[str, Any] | Pipeline | None = None,
        decode_size: int | None = None,
        exif: bool = True,
        broken: str = 'error',
    ) -> None:
        super().__init__(pipeline, broken)
        self.decode_size, self.exif = decode_size, exif
        self.root = path_bytes(data_root)
        self.data_root = Path(text(self.root))
        classes: list[bytes] | None = None
        if class_list is not None:
            classes = sorted(_listed(self.root, class_list))
        elif labelled:
            classes = sorted(_scan(self.root, ()).folders)
        scan = _scan(self.root, classes)
        if not scan.images:
            raise FileNotFoundError(_no_image(scan))
        groups = scan.by_folder()
        if labelled is False:
            classes = None
        elif classes is None and b'' not in groups and len(groups) > 1:
            classes = sorted(scan.folders)
        absent = [name for name in classes or () if name not in groups]
        if absent and class_list is None:
            raise FileNotFoundError(
                f'dataset.data_root: no image in the class folders {few(absent)} of {shown(self.root)} (passed over: '
                f'{count(scan.passed)}). Delete them, or set dataset.labelled=False; if other data, such as those to '
                'train on, have images of these classes, set dataset.class_list to the folder of those.'
            )
        paths = scan.paths()
        if classes is not None:
            self.classes = tuple(map(text, classes))
            sizes = torch.tensor([len(groups.get(name, ())) for name in classes])
            self.labels = torch.arange(len(classes)).repeat_interleave(sizes)
            paths = [path for name in classes for path in groups.get(name, ())]
        say(scan, self.classes, absent)
        self.paths = byte_array(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, index: int) -> tuple[Tensor, int | None]:
        """Return an image and its label."""
        image = decode_image(os.path.join(self.root, self.paths[index]), self.decode_size, self.exif)
        return image, None if self.labels is None else int(self.labels[index])

    def name(self, index: int) -> str:
        """Return the path of an image below ``data_root``."""
        return text(self.paths[index])

    def encoded(self, index: int) -> bytes:
        """Return the bytes of a file."""
        with open(os.path.join(self.root, self.paths[index]), 'rb') as file:
            return file.read()

    def content(self, index: int) -> bytes:
        """Return parts of the file."""
        return file_evidence(os.path.join(self.root, self.paths[index]))


def _scan(root: bytes, folders: Collection[bytes] | None, key: str = 'dataset.data_root') -> Scan:
    if not os.path.isdir(root):
        option = ' (--cfg-options data_root=DIR)' if key == 'dataset.data_root' else ''
        raise FileNotFoundError(
            f'{key}: there is no folder {shown(root)} (looked in {shown(Path.cwd())}). Correct the path{option}.'
        )
    try:
        return Scan(root, folders)
    except OSError as error:
        raise ValueError(
            f'{key}: the folder {shown(root)} cannot be read ({error.strerror}). Make it readable.'
        ) from error


def _listed(root: bytes, class_list: str | Path) -> Collection[bytes]:
    """Return the classes of a list, or of the folder of another data set."""
    if os.path.isdir(path_bytes(class_list)):
        return _scan(path_bytes(class_list), (), 'dataset.class_list').folders

    def find(name: bytes) -> bytes | None:
        inside = os.path.basename(name) == name and name not in (b'.', b'..')
        return name if inside and os.path.isdir(os.path.join(root, name)) else None

    return read_list(class_list, 'dataset.class_list', root, find)


def _no_image(scan: Scan) -> str:
    beside = scan.wanted is not None and scan.passed['images beside the class folders'] > 0
    return (
        f'dataset.data_root: the folder {shown(scan.root)} holds no image ({", ".join(sorted(readable_suffixes()))})'
        + (' in a sub-folder' if beside else '')
        + (f'; passed over: {count(scan.passed)}' if scan.passed else '')
        + ('. Labels need one sub-folder for each class, or set dataset.labelled=False.' if beside else '.')
    )


@DATASETS.register_module()
class ImageNet(ImageFolder):
    """ImageNet, or another data set with the folders ``train`` and ``val`` of class folders.

    Where ``train`` has all classes of ``val``, these have their numbers of ``train``.

    Args:
        data_root: Folder that holds ``train`` and ``val``.
        split: 'train' or 'val'.
        class_list: As for :class:`ImageFolder`; ``imagenet100.txt`` is ImageNet-100.
        pipeline: As for :class:`BaseDataset`.
        decode_size: As for :class:`ImageFolder`.
        exif: As for :class:`ImageFolder`. The recipes set it to False, as published.
        broken: As for :class:`BaseDataset`.

    Raises:
        FileNotFoundError: Also if a class of the list has no image in ``train``.
        ValueError: If the split is another.
    """

    def __init__(
        self,
        data_root: str | Path = 'data/imagenet',
        split: str = 'train',
        class_list: str | Path | None = None,
        pipeline: dict[str, Any] | Pipeline | None = None,
        decode_size: int | None = None,
        exif: bool = True,
        broken: str = 'error',
    ) -> None:
        if split not in ('train', 'val'):
            raise ValueError(f"dataset.split is {split!r}; expected 'train' or 'val'.")
        folder = Path(data_root) / split
        if split == 'val' and class_list is None:
            class_list = _training_classes(folder)
        super().__init__(folder, True, class_list, pipeline, decode_size, exif, broken)
        present = set(self.labels.tolist()) if self.labels is not None else set()
        absent = [name for number, name in enumerate(self.classes or ()) if number not in present]
        if split == 'train' and absent:
            raise FileNotFoundError(
                f'dataset.class_list: {len(absent)} of its {len(self.classes or ())} classes have no folder in '
                f'{shown(folder)}: {few(absent)} (or one without images). Correct the list, or unpack the data again.'
            )


def _training_classes(folder: Path) -> Path | None:
    """Return the folder ``train`` beside that of a test set, if it has all classes of that."""
    train = folder.with_name('train')
    roots = path_bytes(train), path_bytes(folder)
    if not all(map(os.path.isdir, roots)):
        return None
    known, tested = (set(_scan(root, ()).folders) for root in roots)
    return train if tested <= known else None


@DATASETS.register_module()
class TinyImageNet(ImageFolder):
    """Tiny-ImageNet of Stanford's CS231n: RGB images of 64x64, 200 classes; 100,000 to train, 10,000 to test.

    The test images are those of its folder ``val``, as everywhere, since those of ``test`` have no labels. ``val`` may
    be as distributed (``val/images`` and ``val/val_annotations.txt``) or rearranged to a folder for each class. Where
    ``train`` has all classes of ``val``, these have their numbers of ``train``.

    Args:
        data_root: The folder ``tiny-imagenet-200``.
        split: 'train' or 'test'.
        pipeline: As for :class:`BaseDataset`.
        broken: As for :class:`BaseDataset`.

    Raises:
        FileNotFoundError: If there are no images, or no annotations.
        ValueError: If the split is another, or an image of ``val`` has no annotation.
    """

    image_size = 64

    def __init__(
        self,
        data_root: str | Path = 'data/tiny-imagenet-200',
        split: str = 'train',
        pipeline: dict[str, Any] | Pipeline | None = None,
        broken: str = 'error',
    ) -> None:
        train, val = (Path(data_root).expanduser() / name for name in ('train', 'val'))
        annotations = val / 'val_annotations.txt'
        if is_train(split):
            super().__init__(train, True, pipeline=pipeline, broken=broken)
            return
        if not annotations.is_file():
            super().__init__(val, True, _training_classes(val), pipeline, broken=broken)
            return
        super().__init__(val, labelled=False, pipeline=pipeline, broken=broken)
        lines = (line.split(b'\t') for line in annotations.read_bytes().splitlines() if line.strip())
        classes = {name: wnid for name, wnid, *_ in lines}
        names = [os.path.basename(path) for path in self.paths.tolist()]
        missing = [name for name in names if name not in classes]
        if missing:
            raise ValueError(
                f'{shown(annotations)} has no line for {len(missing)} images, e.g. {shown(missing[0])}. Unpack it '
                'again.'
            )
        tested = set(classes.values())
        known = set(_scan(path_bytes(train), ()).folders) if train.is_dir() else set()
        numbers = {name: number for number, name in enumerate(sorted(known if tested <= known else tested))}
        self.classes = tuple(map(text, numbers))
        self.labels = torch.tensor([numbers[classes[name]] for name in names])
