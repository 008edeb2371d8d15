"""CIFAR-10 and CIFAR-100."""

from pathlib import Path
from typing import Any, ClassVar

import torch
import torchvision

from unmix.datasets.arrays import ArrayDataset, is_train
from unmix.datasets.base import Pipeline
from unmix.datasets.download import read_torchvision
from unmix.registry import DATASETS


@DATASETS.register_module()
class CIFAR10(ArrayDataset):
    """`CIFAR-10 <https://www.cs.toronto.edu/~kriz/cifar.html>`_: 50,000 and 10,000 RGB images of 32x32.

    Args:
        data_root: Folder that holds ``cifar-10-batches-py``, or that it is downloaded to.
        split: 'train' or 'test'.
        download: Whether to download what is missing.
        pipeline: As for :class:`BaseDataset`.

    Raises:
        FileNotFoundError: If there are no data.
        ValueError: If they are damaged.
    """

    image_size = 32
    reader: ClassVar[Any] = torchvision.datasets.CIFAR10

    def __init__(
        self,
        data_root: str | Path = 'data/cifar10',
        split: str = 'train',
        download: bool = True,
        pipeline: dict[str, Any] | Pipeline | None = None,
    ) -> None:
        data = read_torchvision(self.reader, data_root, download, train=is_train(split))
        super().__init__(torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), data.targets, pipeline)
        self.classes = tuple(data.classes)


@DATASETS.register_module()
class CIFAR100(CIFAR10):
    """`CIFAR-100 <https://www.cs.toronto.edu/~kriz/cifar.html>`_: as CIFAR-10, in 100 fine classes.

    Args:
        data_root: Folder that holds ``cifar-100-python``, or that it is downloaded to.
        split: 'train' or 'test'.
        download: Whether to download what is missing.
        pipeline: As for :class:`BaseDataset`.
    """

    reader: ClassVar[Any] = torchvision.datasets.CIFAR100

    def __init__(
        self,
        data_root: str | Path = 'data/cifar100',
        split: str = 'train',
        download: bool = True,
        pipeline: dict[str, Any] | Pipeline | None = None,
    ) -> None:
        super().__init__(data_root, split, download, pipeline)
