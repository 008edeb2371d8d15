"""Data sets of the package ``datasets`` (Hugging Face), whose tables are Arrow or Parquet files."""

import glob
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.datasets.base import Pipeline
from unmix.datasets.decode import BrokenImage
from unmix.datasets.encoded import EncodedDataset
from unmix.datasets.evidence import digest, evidence
from unmix.datasets.storage import Storage, StoredFiles, open_storage
from unmix.registry import DATASETS
from unmix.utils.names import byte_array, path_bytes, shown, text

SAVED = ('state.json', 'dataset_dict.json')  # of save_to_disk
TABLES = {'.parquet': 'parquet', '.arrow': 'arrow'}


class TableFiles:
    """Encoded images in a column of a table, whose memory is that of its files.

    Args:
        table: A ``datasets.Dataset`` whose column is a ``datasets.Image(decode=False)``.
        column: The column.
        paths: (N,) bytes, names of the images.
        place: Where the table comes from, for messages.
        storage: Where files are that the table names; None: on this machine.
    """

    def __init__(
        self, table: Any, column: str, paths: np.ndarray, place: bytes, storage: Storage | None = None
    ) -> None:
        self.table, self.column, self.paths, self.root, self.storage = table, column, paths, place, storage

    def place(self, number: int) -> bytes:
        """Return the table, and the number and name of an image in it."""
        return b'%s@/%d (%s)' % (self.root, number, self.paths[number])

    def read(self, number: int) -> bytes:
        """Return the bytes of an image.

        Raises:
            BrokenImage: If there are none, and no file where the table says.
        """
        value = self.table.data.column(self.column)[number].as_py() or {}
        if value.get('bytes') is not None:
            return bytes(value['bytes'])
        if self.storage is not None and value.get('path'):
            return StoredFiles(self.storage, b'', byte_array([value['path'].encode(errors='surrogateescape')])).read(0)
        try:
            return Path(value.get('path') or '').read_bytes()
        except OSError as error:
            raise BrokenImage(
                f'The image {shown(self.place(number))} has no bytes in the table, and its file {value.get("path")!r} '
                f'cannot be read ({error.strerror}). Put the file back, or write the table again with the images in it.'
            ) from error

    def evidence(self, number: int) -> bytes:
        """Return :func:`unmix.datasets.evidence.evidence` of an image."""
        return evidence(self.read(number))

    def source(self) -> bytes:
        """Return a digest of what ``datasets`` tells tables apart by, of the column, and of where its files are."""
        files = None if self.storage is None else (self.storage.kind, self.storage.args)
        told_apart = self.table._fingerprint  # noqa: SLF001  # which has no public name
        return digest((told_apart, self.column, files))  # names depend on the labels

    def sizes(self) -> np.ndarray:
        """Return the bytes of each image, (N,) int64; 0 where it cannot be read."""
        from pyarrow import compute

        column = self.table.data.column(self.column)
        sizes = compute.binary_length(compute.struct_field(column, 'bytes'))
        found = np.array(sizes.fill_null(-1), dtype=np.int64)
        for number in np.flatnonzero(found < 0).tolist():
            try:
                found[number] = len(self.read(number))
            except BrokenImage:
                found[number] = 0
        return found


@DATASETS.register_module()
class HuggingFaceDataset(EncodedDataset):
    """Images in a column of a data set of the package ``datasets``: ``pip install 'unmix[datasets]'``.

    Each image can be read by its number, so that order, workers and resuming are as for a folder. An image is decoded
    as one in a folder is, not by ``datasets``.

    Args:
        data_root: A folder that ``save_to_disk`` wrote; a file ``x.parquet`` or ``x.arrow``, or several
            (``train-*.parquet``); or else what ``datasets.load_dataset`` takes: a folder, or a name on the hub, such as
            ``'imagenet-1k'``.
        split: Its split. A single data set that ``save_to_disk`` wrote must be that split, unless it does not say which
            it is.
        image: Column of the images.
        label: Column of the labels, integers from 0. None: there are none.
        pipeline: As for :class:`BaseDataset`.
        decode_size: As for :class:`EncodedDataset`.
        exif: As for :class:`EncodedDataset`.
        broken: As for :class:`BaseDataset`.
        cache: As for :class:`EncodedDataset`.
        cache_size: As for :class:`EncodedDataset`.
        decoder: As for :class:`EncodedDataset`.
        backend_args: As for :class:`EncodedDataset`, for images that the table names and does not hold; the table
            itself is read by ``datasets``.

    Attributes:
        paths: (N,) bytes: the name of the image in the table, below that of its class if classes have names; its number
            without one. Several images may have the same.

    Raises:
        FileNotFoundError: If there is no such data set or split.
        ImportError: If ``datasets`` is not installed.
        ValueError: If there is no such column, or a label is no integer from 0.
    """

    def __init__(
        self,
        data_root: str | Path,
        split: str = 'train',
        image: str = 'image',
        label: str | None = 'label',
        pipeline: dict[str, Any] | Pipeline | None = None,
        decode_size: int | None = None,
        exif: bool = True,
        broken: str = 'error',
        cache: str = 'none',
        cache_size: int | None = None,
        decoder: str = 'auto',
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(pipeline, decode_size, exif, broken, cache, cache_size, decoder, backend_args)
        self.root = path_bytes(data_root)
        self.data_root = Path(text(self.root))
        table = _load(text(self.root), split)
        for key, column in dict(image=image, label=label).items():
            if column is not None and column not in table.column_names:
                raise ValueError(
                    f'dataset.{key} is {column!r}, but the columns of {shown(self.root)} are '
                    f'{", ".join(table.column_names)}. Choose one of them{", or None" if key == "label" else ""}.'
                )
        if len(table) == 0:
            raise FileNotFoundError(f'dataset.data_root: the split {split!r} of {shown(self.root)} holds no image.')
        names: list[str] | None = None
        if label is not None:
            names = getattr(table.features[label], 'names', None)
            self.labels = self._labels(table, label)
            self.classes = None if names is None else tuple(names)
        table = _encoded(table, image, self.root)
        self.paths = self._names(table, image)
        storage = None if self.backend_args is None else open_storage(self.backend_args, b'')
        self.use(TableFiles(table, image, self.paths, self.root, storage))

    def _labels(self, table: Any, column: str) -> Tensor:
        found = np.array(table.data.column(column).to_pylist(), dtype=object)
        wrong = [
            number
            for number, value in enumerate(found)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0
        ]
        if wrong:
            raise ValueError(
                f'dataset.label: {len(wrong)} of {len(found)} labels in column {column!r} of {shown(self.root)} are no '
                f'integers from 0; the first is {found[wrong[0]]!r} of image {wrong[0]}. Set dataset.label to a column '
                'with numbers of classes, or to None.'
            )
        return torch.from_numpy(found.astype(np.int64))

    def _names(self, table: Any, column: str) -> np.ndarray:
        from pyarrow import compute

        paths = compute.struct_field(table.data.column(column), 'path').to_pylist()
        names = []
        for number, path in enumerate(paths):
            name = os.path.basename(path) if path else str(number)
            if path and self.classes is not None and self.labels is not None:
                name = f'{self.classes[self.labels[number]]}/{name}'
            names.append(name.encode(errors='surrogateescape'))
        return byte_array(names)

    def name(self, index: int) -> str:
        """Return the name of an image."""
        return text(self.paths[index])


def _load(root: str, split: str) -> Any:
    """Return a split as ``datasets.Dataset``."""
    try:
        import datasets

        datasets.load_dataset  # noqa: B018  # a folder named datasets can be imported too
    except (ImportError, AttributeError) as error:
        raise ImportError("HuggingFaceDataset needs the package datasets: pip install 'unmix[datasets]'.") from error
    try:
        if any(os.path.isfile(os.path.join(root, name)) for name in SAVED):
            found = datasets.load_from_disk(root)
            if isinstance(found, datasets.DatasetDict):
                if split not in found:
                    raise ValueError(f'it has the splits {", ".join(found)}')
                found = found[split]
            elif str(found.split or split) != split:
                raise ValueError(f'it is the split {str(found.split)!r} by itself')
            return found
        kind = TABLES.get(os.path.splitext(root)[1].lower())
        if kind is not None:
            files = [root] if os.path.isfile(root) else sorted(glob.glob(root))
            if not files:
                raise FileNotFoundError('there is no such file')
            return datasets.load_dataset(kind, data_files={split: files}, split=split)
        return datasets.load_dataset(root, split=split)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f'dataset.data_root: no data set {root!r} with a split {split!r} ({" ".join(str(error).split())}). Give a '
            'folder that save_to_disk wrote, .parquet or .arrow files, or what datasets.load_dataset takes.'
        ) from error


def _encoded(table: Any, column: str, root: bytes) -> Any:
    """Return the table with images that are not decoded."""
    import datasets

    try:
        return table.cast_column(column, datasets.Image(decode=False))
    except (TypeError, ValueError, NotImplementedError) as error:  # those of pyarrow are such
        raise ValueError(
            f'dataset.image: the column {column!r} of {shown(root)} holds {table.features[column]}; expected images.'
        ) from error
