"""What each image of a data set is like, and what is wrong with it."""

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset

from unmix.datasets.base import BaseDataset
from unmix.datasets.decode import PLAIN, BrokenImage, read_image, turn_of
from unmix.datasets.decoders import TIFF
from unmix.datasets.encoded import EncodedDataset
from unmix.datasets.transforms import to_tensor

try:
    import simplejpeg
except ImportError:  # PIL reads JPEG too, less strictly
    simplejpeg = None

SIDE = 16  # of thumbnails
FAULTS = ('', 'unreadable', 'zero_byte', 'no_image', 'truncated', 'too_large', 'damaged', 'other_values')
READABLE = ('', 'damaged')
KINDS = ('', 'RGB', 'grey', 'alpha', 'CMYK', '16 bit', 'other')  # of channels
_KIND = dict.fromkeys(('RGB', 'P', 'YCbCr', 'LAB', 'HSV', 'RGBX'), 1) | dict.fromkeys(('L', '1'), 2)
_KIND |= dict.fromkeys(('RGBA', 'LA', 'PA', 'RGBa', 'La'), 3) | {'CMYK': 4}
_BEGINS = (b'\xff\xd8', b'\x89PNG', b'GIF8', b'RIFF', b'BM', b'II*\0', b'MM\0*', b'\0\0\0\x0cjP')
_SAMPLED = 512  # pixels a side that mean and standard deviation are measured on
CHUNK = 16  # images that a process examines at a time
RECORD = np.dtype(
    [
        ('fault', 'u1'), ('kind', 'u1'), ('turned', '?'), ('misnamed', '?'), ('constant', '?'), ('width', 'u4'),
        ('height', 'u4'), ('digest', 'u8'), ('mean', 'f4', 3), ('square', 'f4', 3), ('thumbnail', 'u1', (SIDE, SIDE)),
    ]
)  # fmt: skip


class Examined(NamedTuple):
    """The images of a data set.

    Attributes:
        records: (N,) of :data:`RECORD`. ``fault`` and ``kind`` are numbers in :data:`FAULTS` and :data:`KINDS`;
            ``turned``: its EXIF orientation is another than upright; ``misnamed``: its suffix is that of another
            format; ``digest``: of its pixels, as the data set reads them, so turned upright unless it
            has ``exif=False``; ``mean`` and ``square``: means of the channels and of their squares.
        reasons: Of the images with a fault, or misnamed, by number.
    """

    records: np.ndarray
    reasons: dict[int, str]


def examine(leaf: Any, row: int) -> tuple[np.ndarray, str]:
    """Examine an image.

    Args:
        leaf: The data set that holds it.
        row: Its number there.

    Returns:
        A record (), and what is wrong in words.
    """
    record = np.zeros((), RECORD)
    try:
        data = leaf.encoded(row) if isinstance(leaf, BaseDataset) else None
        by_itself = data is None
        if by_itself and isinstance(leaf, EncodedDataset):
            data = leaf.files.read(row)
    except (OSError, ValueError) as error:
        record['fault'] = FAULTS.index('unreadable')
        return record, _reason(error)
    if data is not None:
        pixels, reason = _decoded(data, leaf, row, by_itself, record)
    else:
        pixels, reason = _given(leaf, row, record)
    if pixels is not None:
        _measure(pixels, record)
    return record, reason


def _given(leaf: Any, row: int, record: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Return the pixels of an image that is no file; fill the record."""
    try:
        pixels = _pixels_of(leaf, row)
    except (OSError, ValueError) as error:
        cause = _cause(error)
        gone = not isinstance(error, BrokenImage) or (isinstance(cause, OSError) and cause.errno is not None)
        record['fault'] = FAULTS.index('unreadable' if gone else 'truncated')
        return None, _reason(error)
    record['kind'] = KINDS.index('grey' if pixels.shape[2] == 1 else 'RGB')
    return pixels, ''


def _pixels_of(leaf: Any, row: int) -> np.ndarray:
    """Return an image (H, W, C) as its data set gives it; of one that gives views only, the first view."""
    image = leaf.read(row)[0] if isinstance(leaf, BaseDataset) else leaf[row]['inputs']
    return to_tensor(image[0] if isinstance(image, list) else image).permute(1, 2, 0).numpy()


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    """Return what is wrong with an image, without advice that the findings have."""
    cause = _cause(error)
    if isinstance(cause, UnidentifiedImageError):  # its text has an address in memory
        return 'PIL cannot identify it'
    return getattr(cause, 'strerror', None) or str(cause) or type(cause).__name__


def _decoded(
    data: bytes, leaf: BaseDataset, row: int, by_itself: bool, record: np.ndarray
) -> tuple[np.ndarray | None, str]:
    """Return the pixels (H, W, C) of a file, None if there are none, and what is wrong; fill the record.

    ``by_itself``: only the data set can decode it as it does, by another decoder.
    """
    if not data:
        record['fault'] = FAULTS.index('zero_byte')
        return None, 'the file is empty'
    name, known, reason = leaf.name(row), '', ''
    suffix = name[name.rfind('.') :].lower()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of metadata, and of sizes
            try:
                known, turn = _header(data, record)
            except (OSError, SyntaxError, ValueError):  # of a format that PIL has not
                if not by_itself:
                    raise
            exif = getattr(leaf, 'exif', True)
            if by_itself:
                pixels: np.ndarray | None = _pixels_of(leaf, row)
            else:
                pixels, reason = _jpeg(data)
                if pixels is None:
                    pixels = np.asarray(read_image(name, data, exif))
                    record['fault'] = FAULTS.index('damaged' if reason else '')
                elif exif and turn is not None:
                    pixels = turn(pixels)
    except Image.DecompressionBombError as error:
        record['fault'] = FAULTS.index('too_large')
        return None, str(error)
    except (BrokenImage, OSError, SyntaxError, ValueError) as error:
        cause = _cause(error)
        begun = record['width'] > 0 or data.startswith(_BEGINS)
        if isinstance(cause, Image.DecompressionBombError):
            fault = 'too_large'
        elif not begun:
            fault = 'no_image'
        else:
            fault = 'other_values' if _is_whole(data) else 'truncated'
        record['fault'] = FAULTS.index(fault)
        return None, _reason(error) if begun else _begin(data)
    if record['kind'] == 0:
        record['kind'] = KINDS.index('other')
    expected = Image.registered_extensions().get(suffix)
    same = known == expected or {known, expected} <= {'JPEG', 'MPO'} or {known, expected} <= {'BMP', 'DIB'}
    record['misnamed'] = bool(known) and expected is not None and not same
    return pixels, reason or (f'its format is {known}' if record['misnamed'] else '')


def _header(data: bytes, record: np.ndarray) -> tuple[str, Callable[[np.ndarray], np.ndarray] | None]:
    """Return the format of a file, and how it is turned upright, as PIL reads it; fill the record."""
    with Image.open(io.BytesIO(data)) as image:
        known, mode, (record['width'], record['height']) = image.format or '', image.mode, image.size
        record['kind'] = _KIND.get(mode, 5 if mode.startswith('I;16') else 6)
        if mode == 'P' and 'transparency' in image.info:
            record['kind'] = KINDS.index('alpha')
        turn = turn_of(image)
        record['turned'] = turn is not None
    return known, turn


def _is_whole(data: bytes) -> bool:
    """Return whether a file that a data set cannot read is whole: of other values than it takes, such as floats."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(io.BytesIO(data)) as image:
                image.load()
        return True
    except UnidentifiedImageError:  # such as a TIFF with three channels of floats
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        with suppress(cv2.error):
            return data[:4] in TIFF and cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) is not None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        pass
    return False


def _jpeg(data: bytes) -> tuple[np.ndarray | None, str]:
    """Return the pixels of a plain JPEG by a decoder that is strict, or None and its complaint."""
    if simplejpeg is None or data[:2] != b'\xff\xd8':
        return None, ''
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in PLAIN or height * width > (Image.MAX_IMAGE_PIXELS or height * width):
            return None, ''
        return np.asarray(simplejpeg.decode_jpeg(data, 'RGB')), ''
    except ValueError as error:
        return None, str(error)


def _begin(data: bytes) -> str:
    head = data[:64].lstrip().lower()
    if head.startswith((b'<!doctype html', b'<html')):
        return 'it is an HTML page'
    if head.startswith(b'version https://git-lfs'):
        return 'it is a pointer of Git LFS: "git lfs pull" fetches the file'
    return 'it is of no format that PIL knows'


def _measure(pixels: np.ndarray, record: np.ndarray) -> None:
    """Fill in what depends on pixels (H, W, C)."""
    height, width, channels = pixels.shape
    record['height'], record['width'] = height, width
    digest = blake2b(pixels.tobytes(), digest_size=8, salt=f'{height}x{width}'.encode()[:16]).digest()
    record['digest'] = int.from_bytes(digest, 'little')
    record['constant'] = (pixels.reshape(-1, channels).min(0) == pixels.reshape(-1, channels).max(0)).all()
    pixels = pixels if channels in (1, 3) else pixels[..., :1]
    part = pixels[:: -(-height // _SAMPLED), :: -(-width // _SAMPLED)].reshape(-1, pixels.shape[2]).astype(np.float32)
    with np.errstate(over='ignore', invalid='ignore'):
        record['mean'], record['square'] = part.mean(0), np.square(part).mean(0)
    levels = np.ascontiguousarray(_grey_levels(pixels))
    grey = levels[..., 0] if levels.shape[2] == 1 else cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY)
    record['thumbnail'] = cv2.resize(np.ascontiguousarray(grey), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def _grey_levels(values: np.ndarray) -> np.ndarray:
    """Return values as uint8; those beyond 0 to 255, or of 0 to 1, are spread over them."""
    if values.dtype == np.uint8:
        return values
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = min(float(values.min()), 0.0), float(values.max())
    if low < 0 or high > 255 or high <= 1:
        values = (values - low) * (255 / max(high - low, 1e-12))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


class _Chunks(Dataset[Any]):
    def __init__(self, leaves: Sequence[Any], leaf: np.ndarray, row: np.ndarray) -> None:
        self.leaves, self.leaf, self.row = leaves, leaf, row

    def __len__(self) -> int:
        return -(-len(self.row) // CHUNK)

    def __getitem__(self, number: int) -> tuple[np.ndarray, dict[int, str]]:
        cv2.setNumThreads(0)
        rows = range(number * CHUNK, min((number + 1) * CHUNK, len(self.row)))
        found = [examine(self.leaves[self.leaf[i]], int(self.row[i])) for i in rows]
        reasons = {i: reason for i, (_, reason) in zip(rows, found, strict=True) if reason}
        return np.stack([record for record, _ in found]), reasons


def _only(items: list[Any]) -> Any:
    return items[0]


def examine_all(
    leaves: Sequence[Any], leaf: np.ndarray, row: np.ndarray, workers: int
) -> Iterator[tuple[np.ndarray, dict[int, str]]]:
    """Examine images in several processes; yield records and reasons in order, some images at a time.

    Args:
        leaves: Data sets.
        leaf: (N,) which of them each image is in.
        row: (N,) its number there.
        workers: Processes; 0 for none but this one.
    """
    yield from DataLoader(_Chunks(leaves, leaf, row), batch_size=1, num_workers=workers, collate_fn=_only)
