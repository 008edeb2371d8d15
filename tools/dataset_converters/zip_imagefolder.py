"""Pack the images of a folder into a zip that ImageFolder reads, with the map of their labels.

python tools/dataset_converters/zip_imagefolder.py data/imagenet/train
python tools/dataset_converters/zip_imagefolder.py data/imagenet/val --class-list data/imagenet/train

writes data/imagenet/train.zip and train_map.txt: a name, a tab and a label in each line, as in the zipped ImageNet of
PIC. Images are stored as they are, in the order in which ImageFolder numbers them. Links become files. Until all is
packed and compared with its checksums, the zip has the suffix .part; after an interruption the same command continues
it.
"""

import argparse
import os
import shutil
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from unmix.apis.command import run_tool
from unmix.datasets import ImageFolder
from unmix.datasets.archive import Archive
from unmix.utils.files import atomic_path
from unmix.utils.names import few, path_bytes, shown, text
from unmix.utils.progress import progress

HEADER = struct.Struct('<4s5H3I2H')  # of a member: signature, ..., method, time, date, CRC, sizes, lengths
LARGEST = 2**32 - 2  # bytes of a member without the form for larger ones
YEARS = (1980, 2107)  # that a zip can express


def zip_images(dataset: ImageFolder, out: Path, overwrite: bool = False) -> Path | None:
    """Pack the images of a data set.

    Args:
        dataset: Images in a folder.
        out: The zip.
        overwrite: Replace a zip or map that exists.

    Returns:
        The map; None without labels.

    Raises:
        FileExistsError: If there is a zip or map already, or another process writes it.
        OSError: If there is no room, or a file cannot be read or written; run again to continue.
        ValueError: If a name cannot be in a zip, or the zip is damaged after it was written.
    """
    table = out.with_name(f'{out.stem}_map.txt')
    existing = [str(path) for path in (out, table) if os.path.lexists(path)]
    if existing and not overwrite:
        raise FileExistsError(f'{" and ".join(existing)} exist already. Give another --out, or --overwrite.')
    entries = list(_entries(dataset))
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f'{out.name}.part')
    with _own(part) as file:
        done = _complete(file, entries)
        file.truncate()
        needed = sum(entry.file_size for entry in entries[done:])
        free = shutil.disk_usage(part.parent).free
        if needed > free:
            raise OSError(
                f'{part.parent} has {free} bytes free; {needed} are needed. Make room, or give another --out.'
            )
        if done:
            print(f'{shown(part)}: continues after {done} of {len(entries)} images')
        with zipfile.ZipFile(file, 'w') as archive, progress(out.name, needed) as advance:
            archive.infolist().extend(entries[:done])
            for number, entry in enumerate(entries[done:], done):
                data = dataset.files.read(number)
                entry.file_size = len(data)
                archive.writestr(entry, data)
                advance(len(data))
        file.flush()
        os.fsync(file.fileno())
        _verify(part, dataset, entries)
        with suppress(FileNotFoundError):  # never a map of another zip
            table.unlink()
        os.replace(part, out)
    if dataset.labels is None:
        return None
    with atomic_path(table) as temporary:
        lines = zip(dataset.paths.tolist(), dataset.labels.tolist(), strict=True)
        temporary.write_bytes(b''.join(b'%s\t%d\n' % line for line in lines))
    return table


def _entries(dataset: ImageFolder) -> Iterator[zipfile.ZipInfo]:
    """Yield what the zip will say of each image before its content is known."""
    paths: list[bytes] = dataset.paths.tolist()
    unfit = [path for path in paths if b'\n' in path or b'\\' in path or not _is_utf8(path)]
    if unfit:
        raise ValueError(
            f'{len(unfit)} names cannot be in a zip with a map: {few(unfit)}. Rename them: UTF-8, without line breaks '
            'and backslashes.'
        )
    for number, path in enumerate(paths):
        state = os.stat(dataset.files.place(number))
        if state.st_size > LARGEST:
            raise ValueError(f'{shown(path)} has {state.st_size} bytes; an image of up to 4 GiB is expected.')
        date = time.gmtime(max(state.st_mtime, 0))[:6]
        year = min(max(date[0], YEARS[0]), YEARS[1])
        entry = zipfile.ZipInfo(text(path), (year, *date[1:]))
        entry.file_size = state.st_size
        entry.create_system, entry.external_attr = 3, 0o100644 << 16
        yield entry


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def _own(path: Path) -> Iterator[IO[bytes]]:
    """Open the unfinished zip, which no other process may write."""
    with open(path, 'ab'):
        pass
    with open(path, 'r+b') as file:
        with suppress(ImportError):  # Windows
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise FileExistsError(f'Another process writes {path}. Wait for it, or give another --out.') from error
        yield file


def _complete(file: IO[bytes], entries: list[zipfile.ZipInfo]) -> int:
    """Return how many images the unfinished zip has, and move to their end; of each, checksum, size and time agree."""
    file.seek(0)
    for number, entry in enumerate(entries):
        start = file.tell()
        header = file.read(HEADER.size)
        whole = len(header) == HEADER.size
        signature, _, _, method, clock, date, crc, packed, size, length, extra = (
            HEADER.unpack(header) if whole else (b'',) + (0,) * 10
        )
        year, month, day, hour, minute, second = entry.date_time
        agrees = (
            signature == b'PK\x03\x04'
            and (method, extra, packed, size) == (zipfile.ZIP_STORED, 0, entry.file_size, entry.file_size)
            and clock == hour << 11 | minute << 5 | second // 2
            and date == (year - 1980) << 9 | month << 5 | day
            and file.read(length) == entry.filename.encode()
        )
        if not agrees or zlib.crc32(data := file.read(size)) != crc or len(data) != size:
            file.seek(start)
            return number
        entry.header_offset, entry.compress_size, entry.CRC = start, size, crc
        entry.flag_bits |= 0 if entry.filename.isascii() else 0x800
    return len(entries)


def _verify(part: Path, dataset: ImageFolder, entries: list[zipfile.ZipInfo]) -> None:
    """Read the zip as a data set does.

    Raises:
        ValueError: If an image is not as it was packed.
    """
    archive = Archive([path_bytes(part)])
    wrong = [] if archive.paths.tolist() == dataset.paths.tolist() else [b'the list of names']
    with progress('verify', int(archive.sizes().sum())) as advance:
        for number, entry in enumerate(entries if not wrong else []):
            data = archive.read(number)
            if zlib.crc32(data) != entry.CRC:
                wrong.append(archive.place(number))
            advance(len(data))
    if wrong:
        part.unlink()
        raise ValueError(
            f'{shown(part)} was not as it was written: {few(wrong)}. It is deleted. Look after the disk, and run again.'
        )


def main() -> None:
    """Pack, and say what."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'folder', help='folder of images; with at least two sub-folders and no image beside them, these are classes'
    )
    parser.add_argument('--out', help='the zip (default: FOLDER.zip)')
    parser.add_argument(
        '--class-list', help='list of the classes, or the folder of other data that has them, as of ImageFolder'
    )
    parser.add_argument('--unlabelled', action='store_true', help='write no map')
    parser.add_argument('--overwrite', action='store_true', help='replace a zip or map that exists')
    args = parser.parse_args()
    if not os.path.isdir(path_bytes(args.folder)):
        raise FileNotFoundError(f'There is no folder {shown(path_bytes(args.folder))}.')
    folder = text(os.path.abspath(path_bytes(args.folder)))
    out = Path(text(path_bytes(args.out))) if args.out else Path(f'{folder}.zip')
    if out.suffix.lower() != '.zip':
        raise ValueError(f'--out is {out}; expected a name that ends in .zip.')
    dataset = ImageFolder(folder, False if args.unlabelled else None, args.class_list)
    table = zip_images(dataset, out, args.overwrite)
    labels = 'no labels' if table is None else f'{dataset.num_classes} classes in {shown(table)}'
    print(f'{shown(out)}: {len(dataset)} images, {out.stat().st_size} bytes, verified; {labels}')


if __name__ == '__main__':
    run_tool(main)
