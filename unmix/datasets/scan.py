"""Which files below a folder are images, and what is passed over."""

import heapq
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

from mmengine.dist import get_rank
from mmengine.logging import print_log
from torch.utils.data import get_worker_info

from unmix.datasets.archive import Archive, FolderFiles
from unmix.datasets.archive_directory import DEFLATED, FOLDER, LINK, OTHER, STORED
from unmix.datasets.decode import readable_suffixes
from unmix.datasets.storage import StoredFiles
from unmix.utils.names import byte_array, few, shown, text

SYSTEM = {  # folders of operating systems and file servers, in lower case; others begin with a dot
    b'__macosx', b'__pycache__', b'@eadir', b'@recycle', b'@recently-snapshot', b'#recycle', b'#snapshot',
    b'lost+found', b'$recycle.bin', b'system volume information', b'network trash folder', b'temporary items',
}  # fmt: skip
SEVERAL = ('.apng', '.avif', '.gif', '.tif', '.tiff', '.webp')  # such a file may have several frames or pages
READERS = dict.fromkeys(('.heic', '.heif', '.hif'), '"pip install \'unmix[heif]\'" makes them readable')
READERS |= dict.fromkeys(('.avif', '.qoi', '.webp'), '"pip install --upgrade pillow" makes them readable')
READERS |= dict.fromkeys(('.svg', '.svgz'), 'the package CairoSVG converts them to .png')
READERS |= dict.fromkeys(
    ('.arw', '.cr2', '.cr3', '.dng', '.nef', '.orf', '.raf', '.rw2'), 'the package rawpy reads them'
)
READERS |= {'.jxl': 'djxl of libjxl converts them to .png', '.dcm': 'the package pydicom reads them'}
HIDDEN = ord('.')
SHOWN = 6  # reasons in a message


class Scan:
    """The images at any depth below a folder.

    * Hidden files and folders (``.x``) and folders of operating systems and file servers (``SYSTEM``) are no data.
    * A folder named like an image (``x.jpg``), a FIFO, a socket and a device are no images.
    * A symbolic link to a folder is followed. One to a file is an image with the name and folder of the link. Each real
      folder and file counts once: where it lies itself, or else at the first link to it, in the order of paths. A link
      to a folder that contains ``root`` is not followed. Hard links are files of their own.
    * A folder that cannot be read is passed over. Of the images only the first of each folder is looked at, whether it
      may be opened: one system call for each image would take nearly as long again as the scan (1.1 and 0.8 us an image
      from memory), and far longer from a disk or server.

    A file whose type its folder knows takes no system call otherwise.

    Args:
        root: The folder.
        folders: Names of sub-folders: only these are data, also if they are hidden. None: all sub-folders, and the
            images beside them.
        suffixes: Suffixes of the files that are images, lower case. None: those of PIL's formats.

    Attributes:
        folders: Names of the sub-folders that are data, with and without images, unordered.
        images: Names of the images, in order, by the path of their folder below ``root``; ``b''`` is ``root``.
        found: Number of images by suffix.
        passed: Number of files and folders that are passed over, by reason.
        unreadable: Paths of the folders that cannot be read.
        closed: Paths of the images that may not be opened, of the first of each folder.

    Raises:
        OSError: If ``root`` cannot be read.
    """

    def __init__(
        self, root: bytes, folders: Collection[bytes] | None = None, suffixes: Collection[str] | None = None
    ) -> None:
        self.root, self.wanted = root, folders
        self.folders: list[bytes] = []
        self.images: dict[bytes, list[bytes]] = {}
        self.found: Counter[bytes] = Counter()
        self.passed: Counter[str] = Counter()
        self.unreadable: list[bytes] = []
        self.closed: list[bytes] = []
        self._suffixes = {suffix.encode() for suffix in suffixes or readable_suffixes()}
        self._places: dict[bytes, bytes] = {}  # path below root by the real path, of the folders that are read
        self._to_folders: list[bytes] = []  # links
        self._to_files: list[bytes] = []
        self._fill()
        for names in self.images.values():
            names.sort()

    def _fill(self) -> None:
        self._read(b'', os.path.realpath(self.root))
        self._follow()
        self._take()

    def files(self, paths: Sequence[bytes]) -> FolderFiles | Archive | StoredFiles:
        """Return what reads these images."""
        return FolderFiles(self.root, byte_array(paths))

    def paths(self) -> list[bytes]:
        """Return the paths of the images below ``root``: in the order of their folders, then of their names."""
        return [os.path.join(place, b'') + name for place in sorted(self.images) for name in self.images[place]]

    def by_folder(self) -> dict[bytes, list[bytes]]:
        """Return those in each sub-folder; those beside the sub-folders under ``b''``."""
        groups: dict[bytes, list[bytes]] = defaultdict(list)
        for path in self.paths():
            folder, separator, _ = path.partition(os.sep.encode())
            groups[folder if separator else b''].append(path)
        return dict(groups)

    def _read(self, place: bytes, real: bytes) -> None:
        """Read a folder and those below it, without those behind links."""
        stack = [(place, real)]
        while stack:
            place, real = stack.pop()
            self._places[real] = place
            names: list[bytes] = []
            try:
                with os.scandir(os.path.join(self.root, place)) as entries:
                    for entry in entries:
                        name = entry.name
                        suffix = name[name.rfind(b'.') :].lower()
                        plain = suffix in self._suffixes and name[0] != HIDDEN and entry.is_file(follow_symlinks=False)
                        if plain and (place or self.wanted is None):
                            names.append(name)
                            self.found[suffix] += 1
                        elif plain:
                            self.passed['images beside the class folders'] += 1
                        elif self._is_folder(entry, place, suffix):
                            stack.append((os.path.join(place, name), os.path.join(real, name)))
            except OSError:
                if not place:
                    raise
                self.passed['folders that cannot be read'] += 1
                self.unreadable.append(place)
            if names:
                self.images[place] = names
                first = os.path.join(place, min(names))
                if not os.access(os.path.join(self.root, first), os.R_OK):
                    self.closed.append(first)

    def _is_folder(self, entry: os.DirEntry[bytes], place: bytes, suffix: bytes) -> bool:
        """Return whether an entry is a real folder of data; keep it if it is a link, count it if it is passed over."""
        name, path = entry.name, os.path.join(place, entry.name)
        try:
            folder, regular = entry.is_dir(), entry.is_file()  # of what a link leads to
        except OSError:  # links in a circle
            folder, regular = False, False
        listed = not place and folder and self.wanted is not None and name in self.wanted
        if not listed and (name[0] == HIDDEN or (folder and name.lower() in SYSTEM)):
            self.passed['hidden'] += 1
        elif folder and suffix in self._suffixes and not listed:
            self.passed['folders named like an image'] += 1
        elif folder and not place and self.wanted is not None and not listed:
            self.folders.append(name)
            self.passed['folders that are no class'] += 1
        elif folder:
            self.folders += [] if place else [name]
            if not entry.is_symlink():
                return True
            heapq.heappush(self._to_folders, path)
        elif suffix not in self._suffixes:
            self.passed[shown(suffix) if b'.' in name else 'without suffix'] += 1
        elif not regular:
            self.passed['links to nothing' if entry.is_symlink() else 'named like an image, but no file'] += 1
        elif not place and self.wanted is not None:
            self.passed['images beside the class folders'] += 1
        else:
            self._to_files.append(path)
        return False

    def _follow(self) -> None:
        """Read the folders behind links, each real folder once."""
        root = os.path.join(os.path.realpath(self.root), b'')
        while self._to_folders:
            place = heapq.heappop(self._to_folders)
            real = os.path.realpath(os.path.join(self.root, place))
            if real in self._places or root.startswith(os.path.join(real, b'')):
                self.passed['links to folders that are read already'] += 1
            else:
                self._read(place, real)

    def _take(self) -> None:
        """Take the files behind links, each real file once."""
        real_folder, linked, taken = cache(os.path.realpath), defaultdict[bytes, list[bytes]](list), set[bytes]()
        plain = cache(lambda place: frozenset(self.images.get(place, ())))
        for path in sorted(self._to_files):
            link = os.path.join(self.root, path)
            try:
                folder, name = os.path.split(os.path.join(os.path.dirname(link), os.readlink(link)))
            except OSError:  # it was removed
                self.passed['links to nothing'] += 1
                continue
            real = os.path.join(real_folder(folder), name)
            if os.path.islink(real):
                real = os.path.realpath(real)
            folder, name = os.path.split(real)
            if real in taken or (folder in self._places and name in plain(self._places[folder])):
                self.passed['links to files that are counted already'] += 1
                continue
            taken.add(real)
            place, name = os.path.split(path)
            linked[place].append(name)
            self.found[name[name.rfind(b'.') :].lower()] += 1
        for place, names in linked.items():
            self.images[place] = self.images.get(place, []) + names


class ArchiveScan(Scan):
    """The same of the members of an archive, which are no links, or of the files of a backend.

    Args:
        root: The archive, or the address of the files, for messages.
        archive: The same.
        folders: As for :class:`Scan`.

    Raises:
        ValueError: If a member that is named like an image is a link, or a backslash in its name may end its folder.
    """

    def __init__(self, root: bytes, archive: Archive | StoredFiles, folders: Collection[bytes] | None = None) -> None:
        self.archive = archive
        self._rows: dict[bytes, int] = {}
        super().__init__(root, folders)

    def _fill(self) -> None:
        tops: dict[bytes, bool] = {}  # whether a sub-folder is data
        for row, (path, kind) in enumerate(zip(self.archive.paths.tolist(), self.archive.kind.tolist(), strict=True)):
            place, _, name = path.rpartition(b'/')
            steps = path.split(b'/')
            suffix = name[name.rfind(b'.') :].lower()
            if b'\\' in steps[0] and kind in (STORED, DEFLATED) and suffix in self._suffixes:
                self._refuse_backslash(path)
            if len(steps) > 1 or kind == FOLDER:
                top = steps[0]
                if top not in tops:
                    tops[top] = self._is_data(top)
                if not tops[top]:
                    continue
            if kind == FOLDER:
                continue
            if any(step[0] == HIDDEN or step.lower() in SYSTEM for step in steps[1:-1]) or name[0] == HIDDEN:
                self.passed['hidden'] += 1
            elif any(step[step.rfind(b'.') :].lower() in self._suffixes for step in steps[1:-1]):
                self.passed['folders named like an image'] += 1
            elif suffix not in self._suffixes:
                self.passed[shown(suffix) if b'.' in name else 'without suffix'] += 1
            elif kind == LINK:
                raise ValueError(
                    f'dataset.data_root: {shown(path)} in {shown(self.root)} is a link. Pack the images again as '
                    'files, by tar --dereference --hard-dereference, or tools/dataset_converters/zip_imagefolder.py.'
                )
            elif kind == OTHER:
                self.passed['named like an image, but no file'] += 1
            elif not place and self.wanted is not None:
                self.passed['images beside the class folders'] += 1
            else:
                self.images.setdefault(place, []).append(name)
                self.found[suffix] += 1
                self._rows[path] = row

    def _refuse_backslash(self, path: bytes) -> None:
        """Refuse the name of an image in a zip, unless it may be half of a letter, as in Shift-JIS."""
        if not isinstance(self.archive, Archive) or not text(path).isprintable():
            return
        raise ValueError(
            f'dataset.data_root: {shown(path)} in {shown(self.root)} has a backslash, and other names have slashes, so '
            'that its folder, and with that its class, is not known. Unpack the zip, rename such files, and pack them '
            'again by tools/dataset_converters/zip_imagefolder.py.'
        )

    def _is_data(self, top: bytes) -> bool:
        """Return whether a sub-folder is data; count it if it is passed over."""
        if top == b'':
            return False
        if self.wanted is not None and top in self.wanted:
            self.folders.append(top)
            return True
        if top[0] == HIDDEN or top.lower() in SYSTEM:
            self.passed['hidden'] += 1
            return False
        if top[top.rfind(b'.') :].lower() in self._suffixes:
            self.passed['folders named like an image'] += 1
            return False
        self.folders.append(top)
        if self.wanted is not None:
            self.passed['folders that are no class'] += 1
        return self.wanted is None

    def files(self, paths: Sequence[bytes]) -> FolderFiles | Archive | StoredFiles:
        """Return what reads these images."""
        return self.archive.select([self._rows[path] for path in paths])


def say(scan: Scan, dataset: Any, absent: Sequence[bytes]) -> None:
    """Say what a scan has found, once in a process, on rank 0 and in no data worker; warn of what to look at.

    Args:
        scan: The scan.
        dataset: What was made of it: labels and names of classes.
        absent: Names of those without images.
    """
    if get_rank() != 0 or get_worker_info() is not None:
        return
    root, number = shown(scan.root), scan.found.total()
    kinds = count({text(suffix): n for suffix, n in scan.found.items()})
    classes = dataset.num_classes
    labels = 'no labels' if classes is None else f'{classes} classes'
    _log(f'{root}: {number} images ({kinds}), {labels}; passed over: {count(scan.passed)}.')
    notes = [
        f'{count} {suffix} are passed over; {READERS[suffix]}'
        for suffix, count in scan.passed.items()
        if suffix in READERS
    ]
    if several := sorted(suffix for suffix in map(text, scan.found) if suffix in SEVERAL):
        notes.append(f'of a {" or ".join(several)} with several frames or pages, the first is read')
    if scan.unreadable:
        notes.append(f'{len(scan.unreadable)} folders cannot be read: {few(scan.unreadable)}')
    if scan.closed:
        notes.append(
            f'the first image of {len(scan.closed)} folders may not be opened: {few(scan.closed)}; "unmix doctor '
            f'{root}" lists all such images'
        )
    if absent:
        notes.append(f'{len(absent)} of the {classes} classes have no image: {few(absent)}')
    if notes:
        _warn(f'{root}: {"; ".join(notes)}.')


def count(numbers: Mapping[str, int]) -> str:
    """Join numbers and what they count, the largest first."""
    ranked = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(number for _, number in ranked[SHOWN:])
    parts = [f'{number} {what}' for what, number in ranked[:SHOWN]] + ([f'{rest} others'] if rest else [])
    return ', '.join(parts) or 'nothing'


@cache
def _log(message: str) -> None:
    print_log(message, logger='current')


@cache
def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)
