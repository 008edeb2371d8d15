"""Images in folders and archives: any, ImageNet, Tiny-ImageNet."""

import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from unmix.datasets.archive import ARCHIVES, INSIDE, Archive, open_archive
from unmix.datasets.arrays import is_train
from unmix.datasets.base import Pipeline
from unmix.datasets.decode import readable_suffixes
from unmix.datasets.encoded import EncodedDataset
from unmix.datasets.lists import read_list, read_map
from unmix.datasets.scan import HIDDEN, SYSTEM, ArchiveScan, Scan, count, say
from unmix.datasets.storage import Storage, StoredFiles, Unavailable, open_storage
from unmix.registry import DATASETS
from unmix.utils.names import byte_array, few, path_bytes, shown, text


@DATASETS.register_module()
class ImageFolder(EncodedDataset):
    """The images below a folder, or in an archive of one, as RGB.

    Labelled: each sub-folder is a class, numbered in the order of their names, with images at any depth. Unlabelled:
    the images at any depth, in the order of their paths. :class:`~unmix.datasets.scan.Scan` says what is an image, and
    what becomes of links; one line of the log says what was found and passed over.

    ``data_root`` may be a zip or a plain tar (:mod:`unmix.datasets.archive`): ``train.zip``; a folder inside of it,
    ``data.zip@/images/train``; or several tars as ``webdataset`` writes them, ``shard-{000000..000146}.tar``. These are
    read by positions, not as a stream: any image of an epoch's order can be the next, so that shuffling is whole and a
    resumed run continues exactly, which ``webdataset``'s own reader cannot do. Where a shard has ``KEY.cls``, or
    ``label`` in ``KEY.json``, beside ``KEY.jpg``, that is the label of the image.

    Beside ``train.zip`` there may be ``train_map.txt``, as in the zipped ImageNet of `PIC
    <https://github.com/bl0/PIC>`_: with a name, a tab and a label in each line. Then its lines are the images in their
    order, with these labels.

    With ``backend_args``, or where ``data_root`` is an address (``http://``), images come from a file backend of
    MMEngine. One that cannot list files (``http``, ``lmdb``, ``memcached``) needs ``map_file``. ``data_root`` is put
    before its names, which may have any suffix or none: with ``data_root=''`` they are the keys themselves.

    Args:
        data_root: The folder or archive.
        labelled: Whether the images have labels. None: if all images lie in sub-folders, and these are at least two;
            or if there is a map.
        class_list: The classes, numbered in the order of their names; only these sub-folders are read, and some may
            have no image here. A file with a name in each line (:func:`~unmix.datasets.lists.read_list`), or a folder
            or archive (also ``data.zip@/train``), for example of the training set, whose sub-folders are the classes.
            ``imagenet100.txt`` (the classes of `CMC <https://arxiv.org/abs/1906.05849>`_) comes with the package. With
            a class list, a map beside the archive is not read.
        pipeline: As for :class:`BaseDataset`.
        decode_size: As for :class:`EncodedDataset`.
        exif: As for :class:`EncodedDataset`.
        broken: As for :class:`BaseDataset`.
        map_file: A map elsewhere, also for a folder. With ``labelled=False`` a line may be a name without a label.
        cache: As for :class:`EncodedDataset`.
        cache_size: As for :class:`EncodedDataset`.
        decoder: As for :class:`EncodedDataset`.
        backend_args: As for :class:`EncodedDataset`; also for a list or map that is no file of this machine.

    Attributes:
        paths: (N,) bytes, paths of the images below ``data_root``.

    Raises:
        FileNotFoundError: If the folder, archive or list does not exist, or there is no image, or an image of the map
            is not there, or, without class list and map, none of a class.
        ValueError: If the folder or archive cannot be read, an archive is not that of honest data, or a list or map
            has no names or other lines.
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
        map_file: str | Path | None = None,
        cache: str = 'none',
        cache_size: int | None = None,
        decoder: str = 'auto',
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(pipeline, decode_size, exif, broken, cache, cache_size, decoder, backend_args)
        self.root = path_bytes(data_root)
        storage = open_storage(self.backend_args, self.root)
        self.data_root = Path(text(self.root)) if storage is None else text(self.root)
        if map_file is not None and class_list is not None:
            raise ValueError('dataset.map_file and dataset.class_list both say which classes there are. Give one.')
        if map_file is None and class_list is None:
            map_file = map_beside(self.root)
        if storage is not None and map_file is not None:
            self.paths = byte_array(self._mapped(None, map_file, labelled is not False))
            self.use(StoredFiles(storage, self.root, self.paths))
            return
        archive: Archive | StoredFiles | None
        if storage is None:
            archive = open_archive(self.root)
        else:
            archive = StoredFiles(storage, self.root, byte_array(storage.names(self.root)))
        beside = class_list is None and map_file is None and isinstance(archive, Archive) and archive.label.any()
        classes: list[bytes] | None = None
        if class_list is not None:
            classes = sorted(_listed(self.root, class_list, archive, self.backend_args))
        elif labelled and map_file is None and not beside:
            classes = sorted(scan_root(self.root, (), archive).folders)
        scan = scan_root(self.root, classes, archive)
        if not scan.images:
            raise FileNotFoundError(_no_image(scan))
        absent: list[bytes] = []
        if map_file is not None:
            paths = self._mapped(scan, map_file, labelled is not False)
        else:
            paths, absent = self._in_folders(scan, classes, False if beside else labelled, class_list is not None)
        self.paths = byte_array(paths)
        files = scan.files(paths)
        if beside and labelled is not False and isinstance(files, Archive):
            self.labels = files.labels()
        say(scan, self, absent)
        self.use(files)

    def _in_folders(
        self, scan: Scan, classes: list[bytes] | None, labelled: bool | None, listed: bool
    ) -> tuple[list[bytes], list[bytes]]:
        """Return the images, and the classes without images; set labels and classes."""
        groups = scan.by_folder()
        if labelled is False:
            classes = None
        elif classes is None and b'' not in groups and len(groups) > 1:
            classes = sorted(scan.folders)
        absent = [name for name in classes or () if name not in groups]
        if absent and not listed:
            raise FileNotFoundError(
                f'dataset.data_root: no image in the class folders {few(absent)} of {shown(self.root)} (passed over: '
                f'{count(scan.passed)}). Delete them, or set dataset.labelled=False; if other data, such as those to '
                'train on, have images of these classes, set dataset.class_list to the folder of those.'
            )
        if classes is None:
            return scan.paths(), absent
        self.classes = tuple(map(text, classes))
        sizes = torch.tensor([len(groups.get(name, ())) for name in classes])
        self.labels = torch.arange(len(classes)).repeat_interleave(sizes)
        return [path for name in classes for path in groups.get(name, ())], absent

    def _mapped(self, scan: Scan | None, map_file: str | Path, labelled: bool) -> list[bytes]:
        """Return the images of a map; set labels and, if they lie in a folder for each label, classes."""
        labels = read_map(map_file, 'dataset.map_file', labelled, self.backend_args)
        known = {*labels} if scan is None else {*scan.paths()}
        missing = [name for name in labels if name not in known]
        if missing:
            raise FileNotFoundError(
                f'dataset.map_file: {len(missing)} of the {len(labels)} images of {shown(path_bytes(map_file))} are '
                f'not in {shown(self.root)}, or are no images: {few(missing)}. Write the map again, or fetch the '
                'whole archive.'
            )
        if scan is not None:
            scan.passed['not in the map'] = len(known) - len(labels)
            scan.passed += Counter()  # without zeros
        if labelled:
            self.labels = torch.tensor(list(labels.values()))
            tops = [(name[: max(name.find(b'/'), 0)], label) for name, label in labels.items()]
            folders = [(os.path.dirname(name), label) for name, label in labels.items()]
            self.classes = _names_of_labels(tops) or _names_of_labels(folders)
        return list(labels)

    def name(self, index: int) -> str:
        """Return the path of an image below ``data_root``."""
        return text(self.paths[index])


def _names_of_labels(pairs: Sequence[tuple[bytes, int]]) -> tuple[str, ...] | None:
    """Return the name of each label, from 0; None unless each has one, and no other has it."""
    names = {label: name for name, label in pairs}
    if len({*pairs}) == len(names) == len({*names.values()}) == max(names) + 1:
        return tuple(text(names[label]) for label in range(len(names)))
    return None


def scan_root(
    root: bytes,
    folders: Collection[bytes] | None,
    archive: Archive | StoredFiles | None,
    key: str = 'dataset.data_root',
) -> Scan:
    """Return what is in a folder or archive; ``folders`` are those to look into, None: all."""
    if archive is not None:
        return ArchiveScan(root, archive, folders)
    if not os.path.isdir(root):
        option = ' (--cfg-options data_root=DIR)' if key == 'dataset.data_root' else ''
        raise FileNotFoundError(
            f'{key}: there is no folder {shown(root)} and no such archive (looked in {shown(Path.cwd())}). Correct the '
            f'path{option}.'
        )
    try:
        return Scan(root, folders)
    except OSError as error:
        raise ValueError(
            f'{key}: the folder {shown(root)} cannot be read ({error.strerror}). Make it readable.'
        ) from error


def map_beside(root: bytes) -> Path | None:
    """Return the map beside an archive: ``train_map.txt`` beside ``train.zip``."""
    stem, suffix = os.path.splitext(root)
    path = stem + b'_map.txt'
    return Path(text(path)) if suffix.lower() in ARCHIVES and os.path.isfile(root) and os.path.isfile(path) else None


def _listed(
    root: bytes, class_list: str | Path, archive: Archive | StoredFiles | None, backend_args: dict[str, Any] | None
) -> Collection[bytes]:
    """Return the classes of a list, or of the folder or archive of another data set."""
    other = path_bytes(class_list)
    inside = INSIDE.match(other) is not None and not os.path.isfile(other)
    if os.path.isdir(other) or other.lower().endswith(ARCHIVES) or inside:
        found = scan_root(other, (), open_archive(other, 'dataset.class_list'), 'dataset.class_list').folders
        if not found:
            raise FileNotFoundError(
                f'dataset.class_list: {shown(other)} has no sub-folders, which would be the classes. Correct the path.'
            )
        return found
    storage = open_storage(backend_args, other)
    if storage is not None and storage.lists and (known := _sub_folders(other, storage)):
        return known
    folders = None if archive is None else {*ArchiveScan(root, archive, ()).folders}

    def find(name: bytes) -> bytes | None:
        inside = os.path.basename(name) == name and name not in (b'.', b'..')
        there = os.path.isdir(os.path.join(root, name)) if folders is None else name in folders
        return name if inside and there else None

    return read_list(class_list, 'dataset.class_list', root, find, backend_args)


def _no_image(scan: Scan) -> str:
    beside = scan.wanted is not None and scan.passed['images beside the class folders'] > 0
    what = 'archive' if isinstance(scan, ArchiveScan) and isinstance(scan.archive, Archive) else 'folder'
    return (
        f'dataset.data_root: the {what} {shown(scan.root)} holds no image ({", ".join(sorted(readable_suffixes()))})'
        + (' in a sub-folder' if beside else '')
        + (f'; passed over: {count(scan.passed)}' if scan.passed else '')
        + ('. Labels need one sub-folder for each class, or set dataset.labelled=False.' if beside else '.')
    )


@DATASETS.register_module()
class ImageNet(ImageFolder):
    """ImageNet, or another data set with the folders ``train`` and ``val`` of class folders, or with archives of these.

    Without the folder of a split, ``train.zip`` or ``train.tar`` is read (``val.zip``, ``val.tar``), with the labels of
    ``train_map.txt`` (``val_map.txt``) if it is there. Without a map, where ``train`` has all classes of ``val``, these
    have their numbers of ``train``. With a file backend that cannot list files (``backend_args``), the images are those
    of ``train_map.txt`` (``val_map.txt``) in ``data_root``.

    Args:
        data_root: Folder that holds ``train`` and ``val``; in an archive ``data.zip@`` or ``data.zip@/FOLDER``.
        split: 'train' or 'val'.
        class_list: As for :class:`ImageFolder`; ``imagenet100.txt`` is ImageNet-100.
        pipeline: As for :class:`BaseDataset`.
        decode_size: As for :class:`ImageFolder`.
        exif: As for :class:`EncodedDataset`. The recipes set it to False, as published.
        broken: As for :class:`BaseDataset`.
        cache: As for :class:`EncodedDataset`.
        cache_size: As for :class:`EncodedDataset`.
        decoder: As for :class:`EncodedDataset`.
        backend_args: As for :class:`EncodedDataset`.

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
        cache: str = 'none',
        cache_size: int | None = None,
        decoder: str = 'auto',
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        if split not in ('train', 'val'):
            raise ValueError(f"dataset.split is {split!r}; expected 'train' or 'val'.")
        root = path_bytes(data_root)
        storage = open_storage(backend_args, root)
        folder = _split(root, split, storage)
        map_file = None if storage is None or storage.lists else text(folder + b'_map.txt')
        if split == 'val' and class_list is None and map_file is None and map_beside(folder) is None:
            class_list = _training_classes(root, folder, storage)
        super().__init__(
            text(folder), True, class_list, pipeline, decode_size, exif, broken, map_file, cache, cache_size, decoder,
            backend_args,
        )  # fmt: skip
        present = set(self.labels.tolist()) if self.labels is not None else set()
        absent = [name for number, name in enumerate(self.classes or ()) if number not in present]
        if split == 'train' and absent:
            raise FileNotFoundError(
                f'dataset.class_list: {len(absent)} of its {len(self.classes or ())} classes have no folder in '
                f'{shown(folder)}: {few(absent)} (or one without images). Correct the list, or unpack the data again.'
            )


def _split(root: bytes, name: str, storage: Storage | None) -> bytes:
    """Return the folder of a split, or its archive if there is no such folder."""
    place = os.path.join(root, name.encode())
    places = [place] if storage is not None else [place, *(place + suffix for suffix in ARCHIVES)]
    return next(filter(os.path.exists, places), place)


def _training_classes(root: bytes, folder: bytes, storage: Storage | None) -> str | None:
    """Return the folder or archive ``train`` beside that of a test set, if it has all classes of that."""
    train = _split(root, 'train', storage)
    known, tested = (_classes_in(place, storage) for place in (train, folder))
    return text(train) if known is not None and tested is not None and tested <= known else None


def _classes_in(place: bytes, storage: Storage | None) -> set[bytes] | None:
    """Return the sub-folders of a folder or archive; None if there is none, or they cannot be listed."""
    if storage is not None:
        return _sub_folders(place, storage) if storage.lists else None
    archive = open_archive(place)
    return {*scan_root(place, (), archive).folders} if archive is not None or os.path.isdir(place) else None


def _sub_folders(place: bytes, storage: Storage) -> set[bytes]:
    """Return the names of the sub-folders of a backend that are data."""
    names = storage.names(place, folders=True)
    return {name for name in names if name[0] != HIDDEN and name.lower() not in SYSTEM}


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
        cache: As for :class:`EncodedDataset`.
        decoder: As for :class:`EncodedDataset`.
        backend_args: As for :class:`EncodedDataset`.

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
        cache: str = 'none',
        decoder: str = 'auto',
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        root = path_bytes(data_root)
        train, val = (os.path.join(root, name) for name in (b'train', b'val'))
        options: dict[str, Any] = dict(
            pipeline=pipeline, broken=broken, cache=cache, decoder=decoder, backend_args=backend_args
        )
        if is_train(split):
            super().__init__(text(train), True, **options)
            return
        storage = open_storage(backend_args, root)
        place = os.path.join(val, b'val_annotations.txt')
        annotations = _annotations(place, storage)
        if annotations is None:
            super().__init__(text(val), True, _training_classes(root, val, storage), **options)
            return
        super().__init__(text(val), labelled=False, **options)
        lines = (line.split(b'\t') for line in annotations.splitlines() if line.strip())
        classes = {name: wnid for name, wnid, *_ in lines}
        names = [os.path.basename(path) for path in self.paths.tolist()]
        missing = [name for name in names if name not in classes]
        if missing:
            raise ValueError(
                f'{shown(place)} has no line for {len(missing)} images, e.g. {shown(missing[0])}. Unpack it again.'
            )
        tested = set(classes.values())
        known = _classes_in(train, storage) or set()
        numbers = {name: number for number, name in enumerate(sorted(known if tested <= known else tested))}
        self.classes = tuple(map(text, numbers))
        self.labels = torch.tensor([numbers[classes[name]] for name in names])


def _annotations(place: bytes, storage: Storage | None) -> bytes | None:
    """Return the content of a file; None if there is none."""
    if storage is None:
        return Path(text(place)).read_bytes() if os.path.isfile(place) else None
    try:
        return storage.get(place)
    except Unavailable:
        return None
