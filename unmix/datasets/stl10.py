"""STL-10."""

from pathlib import Path
from typing import Any

import torch
import torchvision

from unmix.datasets.arrays import ArrayDataset
from unmix.datasets.base import Pipeline
from unmix.datasets.download import read_torchvision
from unmix.registry import DATASETS

SPLITS = ('train', 'test', 'unlabeled', 'train+unlabeled')


@DATASETS.register_module()
class STL10(ArrayDataset):
    """`STL-10 <https://cs.stanford.edu/~acoates/stl10/>`_: RGB images of 96x96, 10 classes.

    5,000 to train, 8,000 to test, 100,000 without label. A split with the latter has no labels at all.

    Args:
        data_root: Folder that holds ``stl10_binary``, or that it is downloaded to.
        split: 'train', 'test', 'unlabeled' or 'train+unlabeled'.
        download: Whether to download what is missing (2.6 GB).
        pipeline: As for :class:`BaseDataset`.

    Raises:
        FileNotFoundError: If there are no data.
        ValueError: If the split is another, or the data are damaged.
    """

    image_size = 96

    def __init__(
        self,
        data_root: str | Path = 'data/stl10',
        split: str = 'train+unlabeled',
        download: bool = True,
        pipeline: dict[str, Any] | Pipeline | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f'dataset.split is {split!r}; STL-10 has {", ".join(SPLITS)}.')
        data = read_torchvision(torchvision.datasets.STL10, data_root, download, split=split)
        labels = None if 'unlabeled' in split else data.labels
        super().__init__(torch.from_numpy(data.data), labels, pipeline)
        self.classes = tuple(data.classes)
