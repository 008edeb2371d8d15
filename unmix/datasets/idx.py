"""MNIST and its like: files in the idx format."""

import gzip
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision

from unmix.datasets.arrays import ArrayDataset, is_train
from unmix.datasets.base import Pipeline
from unmix.datasets.download import fetch_if_missing
from unmix.registry import DATASETS
from unmix.utils.rng import generator

SYSTEM = Path('/usr/share/datasets')  # where Debian's and Ubuntu's packages dataset-* put them
HEADER = 4  # bytes: 0, 0, type (8: uint8), number of dimensions; then the dimensions, 4 bytes each, big endian


def read_idx(path: str | Path) -> np.ndarray:
    """Read a uint8 array from an idx file (`format <http://yann.lecun.com/exdb/mnist/>`_), also gzipped.

    Raises:
        ValueError: If it is no such file, or truncated.
    """
    path = Path(path)
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == '.gz' else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f'{path} cannot be read ({error}). Replace the file.') from error
    if len(data) < HEADER or data[:3] != b'\0\0\x08':
        raise ValueError(f'{path} is no idx file of bytes: it begins with {data[:3]!r}. Replace the file.')
    start = HEADER + 4 * data[3]
    shape = np.frombuffer(data[HEADER:start], '>u4').tolist()
    if len(data) - start != math.prod(shape):
        raise ValueError(f'{path} has {len(data) - start} bytes of data, not {shape} as its header says. Replace it.')
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


@DATASETS.register_module()
class MNIST(ArrayDataset):
    """`MNIST <http://yann.lecun.com/exdb/mnist/>`_: 60,000 and 10,000 grey images of 28x28, 10 classes.

    The four files, gzipped or not, are looked for in ``{data_root}/MNIST/raw`` (torchvision's place),
    ``{data_root}/raw``, ``{data_root}`` and ``/usr/share/datasets/mnist``; then they are downloaded to the first.

    Args:
        data_root: Folder of data sets.
        split: 'train' or 'test'.
        num_images: Take only so many, the same random ones always.
        download: Whether to download what is missing.
        pipeline: As for :class:`BaseDataset`.

    Raises:
        FileNotFoundError: If there are no data; lists the places.
    """

    image_size = 28
    system_folder: ClassVar[str] = 'mnist'
    reader: ClassVar[type] = torchvision.datasets.MNIST

    def __init__(
        self,
        data_root: str | Path = 'data',
        split: str = 'train',
        num_images: int | None = None,
        download: bool = True,
        pipeline: dict[str, Any] | Pipeline | None = None,
    ) -> None:
        root = Path(data_root).expanduser()
        name, train = type(self).__name__, is_train(split)
        places = [root / name / 'raw', root / 'raw', root, SYSTEM / self.system_folder]
        names = [f'{"train" if train else "t10k"}-{what}-ubyte' for what in ('images-idx3', 'labels-idx1')]
        reason = fetch_if_missing(
            lambda: None not in [_find(places, name) for name in names],
            lambda: self.reader(root, train=train, download=True),
            download,
        )
        files = [_find(places, name) for name in names]
        if None in files:
            raise FileNotFoundError(
                f'{name}: found no {names[files.index(None)]}[.gz] in {", ".join(map(str, places))}. {reason} Put the '
                'files into one of these folders, or set dataset.data_root (--cfg-options data_root=DIR).'
            )
        images, labels = (torch.from_numpy(read_idx(file).copy()) for file in files if file is not None)
        if num_images is not None:
            rows = torch.from_numpy(generator('subset', name, split).permutation(len(images))[:num_images])
            images, labels = images[rows], labels[rows]
        super().__init__(images[:, None], labels, pipeline)


@DATASETS.register_module()
class FashionMNIST(MNIST):
    """`Fashion-MNIST <https://arxiv.org/abs/1708.07747>`_: MNIST's format, articles of clothing.

    On Debian and Ubuntu the package ``dataset-fashion-mnist`` is found.
    """

    system_folder: ClassVar[str] = 'fashion-mnist'
    reader: ClassVar[type] = torchvision.datasets.FashionMNIST


def _find(places: list[Path], name: str) -> Path | None:
    """Return the first file of that name, plain or gzipped."""
    candidates = (place / (name + suffix) for place in places for suffix in ('', '.gz'))
    return next((path for path in candidates if path.is_file()), None)
