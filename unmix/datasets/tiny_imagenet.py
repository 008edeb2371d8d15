"""Tiny-ImageNet."""

from pathlib import Path
from typing import Any

import torch

from unmix.datasets.arrays import is_train
from unmix.datasets.base import Pipeline
from unmix.datasets.folder import ImageFolder
from unmix.registry import DATASETS


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
