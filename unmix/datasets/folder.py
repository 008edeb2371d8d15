"""Images in folders: any, ImageNet, Tiny-ImageNet."""

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from unmix.datasets.arrays import is_train
from unmix.datasets.base import BaseDataset, Pipeline, file_evidence
from unmix.datasets.decode import decode_image
from unmix.registry import DATASETS

LISTS = Path(__file__).parent  # class lists that come with the package


@DATASETS.register_module()
class ImageFolder(BaseDataset):
    """The images below a folder, as RGB.

    Labelled: each sub-folder is a class, numbered in the order of their names, with images at any depth. Unlabelled:
    the images at any depth, in the order of their paths.

    Args:
        data_root: The folder.
        labelled: Whether the images have labels. None: if all images lie in sub-folders, and these are at least two.
        class_list: File with a name of a class in each line: take these sub-folders only. ``imagenet100.txt`` (the
            classes of `CMC <https://arxiv.org/abs/1906.05849>`_) comes with the package.
        pipeline: As for :class:`BaseDataset`.
        decode_size: Decode JPEGs of twice this size and more at a half to an eighth of theirs, but no side below it:
            faster for large photographs, not bit-equal; see :func:`decode_image`.

    Raises:
        FileNotFoundError: If the folder, or a class of the list, does not exist, or there is no image.
        ValueError: If labels are wanted of a folder without sub-folders.
    """

    def __init__(
        self,
        data_root: str | Path,
        labelled: bool | None = None,
        class_list: str | Path | None = None,
        pipeline: dict[str, Any] | Pipeline | None = None,
        decode_size: int | None = None,
    ) -> None:
        super().__init__(pipeline)
        self.decode_size = decode_size
        self.data_root = Path(data_root).expanduser()
        if not self.data_root.is_dir():
            raise FileNotFoundError(
                f'dataset.data_root: there is no folder {self.data_root} (looked in {Path.cwd()}). Correct the path '
                '(--cfg-options data_root=DIR).'
            )
        folders = sorted(entry.name for entry in os.scandir(self.data_root) if entry.is_dir())
        if class_list is not None:
            folders = self._take(folders, read_list(class_list, 'dataset.class_list'))
        flat = any(entry.is_file() and _is_image(entry.name) for entry in os.scandir(self.data_root))
        images = {folder: _scan(self.data_root, folder) for folder in folders}
        if labelled is None:
            labelled = class_list is not None or (not flat and sum(map(bool, images.values())) > 1)
        paths = list(chain.from_iterable(images.values())) if labelled else _scan(self.data_root, '')
        if not paths:
            raise FileNotFoundError(
                f'dataset.data_root: the folder {self.data_root} holds no image ({", ".join(IMG_EXTENSIONS)})'
                + (' in a sub-folder' if flat else '')
                + ('; labels need one sub-folder for each class, or set dataset.labelled=False.' if flat else '.')
            )
        if labelled:
            self._label(images)
        self.paths = np.array([os.fsencode(path) for path in paths])  # workers share an array, not a list

    def _take(self, folders: Sequence[str], wanted: Sequence[str]) -> list[str]:
        missing = sorted(set(wanted) - set(folders))
        if missing:
            raise FileNotFoundError(
                f'dataset.class_list: {len(missing)} of its {len(wanted)} classes have no folder in {self.data_root}: '
                f'{few(missing)}.'
            )
        return sorted(wanted)

    def _label(self, images: dict[str, list[str]]) -> None:
        empty = [folder for folder, paths in images.items() if not paths]
        if empty:
            raise FileNotFoundError(
                f'{self.data_root}: no image in the class folders {few(empty)}. Delete them, or set '
                'dataset.labelled=False.'
            )
        self.classes = tuple(images)
        counts = torch.tensor([len(paths) for paths in images.values()])
        self.labels = torch.arange(len(counts)).repeat_interleave(counts)

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, index: int) -> tuple[Tensor, int | None]:
        """Return an image and its label."""
        image = decode_image(self.data_root / os.fsdecode(self.paths[index]), self.decode_size)
        return image, None if self.labels is None else int(self.labels[index])

    def name(self, index: int) -> str:
        """Return the path of an image below ``data_root``."""
        return os.fsdecode(self.paths[index])

    def content(self, index: int) -> bytes:
        """Return parts of the file."""
        return file_evidence(self.data_root / self.name(index))


@DATASETS.register_module()
class ImageNet(ImageFolder):
    """ImageNet, or another data set with the folders ``train`` and ``val`` of class folders.

    Args:
        data_root: Folder that holds ``train`` and ``val``.
        split: 'train' or 'val'.
        class_list: As for :class:`ImageFolder`; ``imagenet100.txt`` is ImageNet-100.
        pipeline: As for :class:`BaseDataset`.
        decode_size: As for :class:`ImageFolder`.

    Raises:
        ValueError: If the split is another.
    """

    def __init__(
        self,
        data_root: str | Path = 'data/imagenet',
        split: str = 'train',
        class_list: str | Path | None = None,
        pipeline: dict[str, Any] | Pipeline | None = None,
        decode_size: int | None = None,
    ) -> None:
        if split not in ('train', 'val'):
            raise ValueError(f"dataset.split is {split!r}; expected 'train' or 'val'.")
        super().__init__(Path(data_root) / split, True, class_list, pipeline, decode_size)


def few(names: Sequence[str]) -> str:
    """Join the first four names for a message."""
    return ', '.join(names[:4]) + (', ...' if len(names) > 4 else '')


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMG_EXTENSIONS)


def _scan(root: Path, folder: str) -> list[str]:
    """Paths, relative to ``root``, of the images at any depth below ``root / folder``, in order."""
    found = []
    for place, _, names in sorted(os.walk(root / folder, followlinks=True)):
        found += [os.path.relpath(os.path.join(place, name), root) for name in sorted(names) if _is_image(name)]
    return found


def read_list(path: str | Path, key: str) -> list[str]:
    """Read the names in a file, one a line, without comments (#); ``key`` is the config's, for the message."""
    candidates = [Path(path).expanduser(), LISTS / path]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        raise FileNotFoundError(f'{key}: there is no file {" or ".join(map(str, candidates))}.')
    lines = (line.split('#')[0].strip() for line in file.read_text().splitlines())
    return [line for line in lines if line]


@DATASETS.register_module()
class TinyImageNet(ImageFolder):
    """Tiny-ImageNet of Stanford's CS231n: RGB images of 64x64, 200 classes; 100,000 to train, 10,000 to test.

    The test images are those of its folder ``val``, as everywhere, since those of ``test`` have no labels. ``val`` may
    be as distributed (``val/images`` and ``val/val_annotations.txt``) or rearranged to a folder for each class.

    Args:
        data_root: The folder ``tiny-imagenet-200``.
        split: 'train' or 'test'.
        pipeline: As for :class:`BaseDataset`.

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
    ) -> None:
        root = Path(data_root).expanduser()
        annotations = root / 'val' / 'val_annotations.txt'
        if is_train(split) or not annotations.is_file():
            super().__init__(root / ('train' if is_train(split) else 'val'), True, pipeline=pipeline)
            return
        super().__init__(root / 'val', labelled=False, pipeline=pipeline)
        lines = (line.split('\t') for line in annotations.read_text().splitlines())
        classes = {name: wnid for name, wnid, *_ in lines}
        self.classes = tuple(sorted(set(classes.values())))
        names = [Path(path.decode()).name for path in self.paths.tolist()]
        missing = [name for name in names if name not in classes]
        if missing:
            raise ValueError(
                f'{annotations} has no line for {len(missing)} images, e.g. {missing[0]}. Unpack it again.'
            )
        self.labels = torch.tensor([self.classes.index(classes[name]) for name in names])
