"""Published data sets that are downloaded if they are missing: CIFAR, STL-10, MNIST and Fashion-MNIST."""

import gzip
import math
import os
import socket
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision
from mmengine.dist import barrier

from unmix.datasets.arrays import ArrayDataset, is_train
from unmix.datasets.base import Pipeline
from unmix.datasets.storage import LocalCopies, Storage, Unavailable, open_storage
from unmix.registry import DATASETS
from unmix.utils.names import few, path_bytes, shown, text
from unmix.utils.rng import generator

TIMEOUT = 20  # seconds


def fetch_if_missing(present: Callable[[], bool], fetch: Callable[[], Any], download: bool = True) -> str:
    """Fetch data that are not present, on one process of each machine while the others wait.

    Returns:
        Why the data are not there, as the end of a message; '' if they are, or if another process knows.
    """
    reason, timeout = '', socket.getdefaulttimeout()
    if int(os.environ.get('LOCAL_RANK', 0)) == 0 and not present():
        if not download:
            reason = 'Nothing was downloaded, since dataset.download is False.'
        else:
            socket.setdefaulttimeout(TIMEOUT)  # torchvision sets none, and would wait for ever behind a firewall
            try:
                fetch()
            except (OSError, RuntimeError) as error:  # URLError is an OSError
                reason = f'The download failed: {" ".join(str(error).split()).rstrip(".")}.'  # in one line
            finally:
                socket.setdefaulttimeout(timeout)
    barrier()
    return reason


def read_torchvision(
    reader: Any, data_root: str | Path, download: bool, backend_args: dict[str, Any] | None, **split: Any
) -> Any:
    """Read a data set of torchvision that lists its files with their MD5 sums, and download what is missing.

    Files of a backend are copied to a temporary folder, since torchvision reads paths, and are not downloaded.

    Args:
        reader: torchvision's class.
        data_root: Folder that holds the class's ``base_folder``.
        download: Whether to download.
        backend_args: As for :class:`~unmix.datasets.encoded.EncodedDataset`.
        **split: The class's arguments that choose the split.

    Raises:
        FileNotFoundError: If there are no data.
        ValueError: If they are damaged.
    """
    names = [file for file, _ in (*reader.train_list, *reader.test_list)]
    address = path_bytes(data_root)
    storage = open_storage(backend_args, address)
    if storage is not None:
        names.append(reader.meta['filename'] if hasattr(reader, 'meta') else reader.class_names_file)
        copies = LocalCopies(storage, address, [f'{reader.base_folder}/{name}'.encode() for name in names])
        if copies.absent:
            raise FileNotFoundError(
                f'dataset.data_root: the backend {storage.name!r} does not give {few([*copies.absent])} of '
                f'{shown(address)} ({next(iter(copies.absent.values()))}). Put the content of {reader.filename} from '
                f'{reader.url} there, or correct dataset.data_root and dataset.backend_args.'
            )
        return _read(reader, text(copies.folder), f'{shown(address)}, by the backend {storage.name!r},', split)
    root = Path(data_root).expanduser()
    folder = root / reader.base_folder
    files = [folder / name for name in names]

    def present() -> bool:
        return all(file.is_file() for file in files)

    reason = fetch_if_missing(present, lambda: reader(root, download=True), download)
    if not present():
        raise FileNotFoundError(
            f'{folder} does not hold {", ".join(file.name for file in files)}. {reason} Unpack {reader.filename} from '
            f'{reader.url} into {root}, or set dataset.data_root (--cfg-options data_root=DIR) to the folder that '
            'holds it unpacked.'
        )
    return _read(reader, root, str(folder), split)


def _read(reader: Any, root: str | Path, place: str, split: dict[str, Any]) -> Any:
    try:
        return reader(root, **split)
    except RuntimeError as error:  # torchvision compares the MD5 sums
        raise ValueError(f'The files in {place} are damaged. Delete them and start again.') from error


@DATASETS.register_module()
class CIFAR10(ArrayDataset):
    """`CIFAR-10 <https://www.cs.toronto.edu/~kriz/cifar.html>`_: 50,000 and 10,000 RGB images of 32x32.

    Args:
        data_root: Folder that holds ``cifar-10-batches-py`` (CIFAR-100: ``cifar-100-python``), or that it is downloaded
            to. None: ``data/cifar10`` (``data/cifar100``).
        split: 'train' or 'test'.
        download: Whether to download what is missing.
        pipeline: As for :class:`BaseDataset`.
        backend_args: As for :class:`~unmix.datasets.encoded.EncodedDataset`; nothing is downloaded then.

    Raises:
        FileNotFoundError: If there are no data.
        ValueError: If they are damaged.
    """

    image_size = 32
    reader: ClassVar[Any] = torchvision.datasets.CIFAR10
    default_root: ClassVar[str] = 'data/cifar10'

    def __init__(
        self,
        data_root: str | Path | None = None,
        split: str = 'train',
        download: bool = True,
        pipeline: dict[str, Any] | Pipeline | None = None,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        root = self.default_root if data_root is None else data_root
        data = read_torchvision(self.reader, root, download, backend_args, train=is_train(split))
        super().__init__(torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), data.targets, pipeline)
        self.classes = tuple(data.classes)


@DATASETS.register_module()
class CIFAR100(CIFAR10):
    """`CIFAR-100 <https://www.cs.toronto.edu/~kriz/cifar.html>`_: as CIFAR-10, in 100 fine classes."""

    reader: ClassVar[Any] = torchvision.datasets.CIFAR100
    default_root: ClassVar[str] = 'data/cifar100'


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
        backend_args: As for :class:`CIFAR10`. The files are copied to a temporary folder while they are read (2.9 GB).

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
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f'dataset.split is {split!r}; STL-10 has {", ".join(SPLITS)}.')
        data = read_torchvision(torchvision.datasets.STL10, data_root, download, backend_args, split=split)
        labels = None if 'unlabeled' in split else data.labels
        super().__init__(torch.from_numpy(data.data), labels, pipeline)
        self.classes = tuple(data.classes)


SYSTEM = Path('/usr/share/datasets')  # where Debian's and Ubuntu's packages dataset-* put them
HEADER = 4  # bytes: 0, 0, type (8: uint8), number of dimensions; then the dimensions, 4 bytes each, big endian


def read_idx(path: str | Path) -> np.ndarray:
    """Read a uint8 array from an idx file (`format <http://yann.lecun.com/exdb/mnist/>`_), also gzipped.

    Raises:
        ValueError: If it is no such file, or truncated.
    """
    try:
        return _from_idx(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise ValueError(f'{path} cannot be read ({error}). Replace the file.') from error


def _from_idx(data: bytes, path: str) -> np.ndarray:
    """Return the array of an idx file with these bytes; see :func:`read_idx`."""
    try:
        data = gzip.decompress(data) if path.endswith('.gz') else data
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f'{path} cannot be read ({error}). Replace the file.') from error
    if len(data) < HEADER or data[:3] != b'\0\0\x08':
        raise ValueError(f'{path} is no idx file of bytes: it begins with {data[:3]!r}. Replace the file.')
    start = HEADER + 4 * data[3]
    shape = np.frombuffer(data[HEADER:start], '>u4').tolist()
    if len(data) - start != math.prod(shape):
        raise ValueError(f'{path} has {len(data) - start} bytes of data, not {shape} as its header says. Replace it.')
    return np.asarray(np.frombuffer(data, np.uint8, offset=start).reshape(shape))


@DATASETS.register_module()
class MNIST(ArrayDataset):
    """`MNIST <http://yann.lecun.com/exdb/mnist/>`_: 60,000 and 10,000 grey images of 28x28, 10 classes.

    The four files, gzipped or not, are looked for in ``{data_root}/MNIST/raw`` (torchvision's place),
    ``{data_root}/raw``, ``{data_root}`` and ``/usr/share/datasets/mnist``; then they are downloaded to the first. A
    file backend is asked for the first three.

    Args:
        data_root: Folder of data sets.
        split: 'train' or 'test'.
        num_images: Take only so many, the same random ones always.
        download: Whether to download what is missing.
        pipeline: As for :class:`BaseDataset`.
        backend_args: As for :class:`~unmix.datasets.encoded.EncodedDataset`; nothing is downloaded then.

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
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        storage = open_storage(backend_args, path_bytes(data_root))
        names = [f'{"train" if is_train(split) else "t10k"}-{what}-ubyte' for what in ('images-idx3', 'labels-idx1')]
        if storage is None:
            arrays = [read_idx(file) for file in self._files(Path(data_root).expanduser(), names, split, download)]
        else:
            folders = [f'{type(self).__name__}/raw/', 'raw/', '']
            arrays = [_stored(storage, path_bytes(data_root), folders, file) for file in names]
        images, labels = (torch.from_numpy(array.copy()) for array in arrays)
        if num_images is not None:
            order = generator('subset', type(self).__name__, split).permutation(len(images))
            rows = torch.from_numpy(order[:num_images])
            images, labels = images[rows], labels[rows]
        super().__init__(images[:, None], labels, pipeline)

    def _files(self, root: Path, names: Sequence[str], split: str, download: bool) -> list[Path]:
        """Return the files of these names on this machine."""
        name = type(self).__name__
        places = [root / name / 'raw', root / 'raw', root, SYSTEM / self.system_folder]
        reason = fetch_if_missing(
            lambda: None not in [_find(places, name) for name in names],
            lambda: self.reader(root, train=is_train(split), download=True),
            download,
        )
        files = [_find(places, name) for name in names]
        if None in files:
            raise FileNotFoundError(
                f'{name}: found no {names[files.index(None)]}[.gz] in {", ".join(map(str, places))}. {reason} Put the '
                'files into one of these folders, or set dataset.data_root (--cfg-options data_root=DIR).'
            )
        return [file for file in files if file is not None]


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


def _stored(storage: Storage, root: bytes, folders: Sequence[str], name: str) -> np.ndarray:
    """Return the array of the first file of that name that a backend gives, plain or gzipped.

    Raises:
        FileNotFoundError: If it gives none.
        ValueError: If it is no idx file.
    """
    places = [storage.address(root, f'{folder}{name}{end}'.encode()) for folder in folders for end in ('', '.gz')]
    reason = ''
    for place in places:
        try:
            return _from_idx(storage.get(place), shown(place))
        except Unavailable as error:
            reason = str(error)
    raise FileNotFoundError(
        f'dataset.data_root: the backend {storage.name!r} gives none of {", ".join(map(shown, places))} ({reason}). '
        'Put the file into one of these places, or correct dataset.data_root and dataset.backend_args.'
    )
