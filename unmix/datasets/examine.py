"""What each image of a data set is like, and what is wrong with it."""

import io
import warnings
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from unmix.datasets.base import BaseDataset
from unmix.datasets.decode import PLAIN, BrokenImage, read_image
from unmix.datasets.decoders import ORIENTATION
from unmix.datasets.transforms import to_tensor

try:
    import simplejpeg
except ImportError:  # PIL reads JPEG too, less strictly
    simplejpeg = None

SIDE = 16  # of thumbnails
FAULTS = ('', 'unreadable', 'zero_byte', 'no_image', 'truncated', 'too_large', 'damaged')
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
            format; ``digest``: of its pixels; ``mean`` and ``square``: means of the channels and of their squares.
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
        pixels: np.ndarray | None
        if data is None:
            pixels, reason = _pixels_of(leaf, row), ''
            record['kind'] = KINDS.index('grey' if pixels.shape[2] == 1 else 'RGB')
        else:
            pixels, reason = _decoded(data, leaf.name(row), record)
    except (OSError, ValueError) as error:
        record['fault'] = FAULTS.index('unreadable')
        return record, getattr(error, 'strerror', None) or str(error)
    if pixels is not None:
        _measure(pixels, record)
    return record, reason


def _pixels_of(leaf: Any, row: int) -> np.ndarray:
    image = leaf.read(row)[0] if isinstance(leaf, BaseDataset) else leaf[row]['inputs']
    image = to_tensor(image)
    image = image if image.shape[0] in (1, 3) else image[:1]
    values = image.permute(1, 2, 0).numpy()
    if values.dtype == np.uint8:
        return values
    largest = float(values.max())
    return np.clip(np.rint(values * (255 / largest if largest > 255 else 1.0)), 0, 255).astype(np.uint8)


def _decoded(data: bytes, name: str, record: np.ndarray) -> tuple[np.ndarray | None, str]:
    """Return the pixels (H, W, 3) of a file, None if there are none, and what is wrong; fill the record."""
    if not data:
        record['fault'] = FAULTS.index('zero_byte')
        return None, 'the file is empty'
    suffix = name[name.rfind('.') :].lower()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of metadata, and of sizes
            with Image.open(io.BytesIO(data)) as image:
                known, mode, (record['width'], record['height']) = image.format or '', image.mode, image.size
                record['kind'] = _KIND.get(mode, 5 if mode.startswith('I;16') else 6)
                if mode == 'P' and 'transparency' in image.info:
                    record['kind'] = KINDS.index('alpha')
                record['turned'] = _orientation(image) not in (None, 1)
            pixels, reason = _jpeg(data)
            if pixels is None:
                pixels = np.asarray(read_image(name, data, exif=False))
                record['fault'] = FAULTS.index('damaged' if reason else '')
    except Image.DecompressionBombError as error:
        record['fault'] = FAULTS.index('too_large')
        return None, str(error)
    except (BrokenImage, OSError, SyntaxError, ValueError) as error:
        too_large = isinstance(error.__cause__, Image.DecompressionBombError)
        begun = record['width'] > 0 or data.startswith(_BEGINS)
        record['fault'] = FAULTS.index('too_large' if too_large else 'truncated' if begun else 'no_image')
        return None, _begin(data) if not begun else str(error.__cause__ or error)
    expected = Image.registered_extensions().get(suffix)
    same = known == expected or {known, expected} <= {'JPEG', 'MPO'} or {known, expected} <= {'BMP', 'DIB'}
    record['misnamed'] = expected is not None and not same
    return pixels, reason or (f'its format is {known}' if record['misnamed'] else '')


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


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # of many types; the pixels are whole
        return None


def _begin(data: bytes) -> str:
    head = data[:64].lstrip().lower()
    if head.startswith((b'<!doctype html', b'<html')):
        return 'it is an HTML page'
    if head.startswith(b'version https://git-lfs'):
        return 'it is a pointer of Git LFS: "git lfs pull" fetches the file'
    return 'it is of no format that PIL knows'


def _measure(pixels: np.ndarray, record: np.ndarray) -> None:
    """Fill in what depends on pixels (H, W, C), uint8."""
    height, width, channels = pixels.shape
    record['height'], record['width'] = height, width
    digest = blake2b(pixels.tobytes(), digest_size=8, salt=f'{height}x{width}'.encode()[:16]).digest()
    record['digest'] = int.from_bytes(digest, 'little')
    record['constant'] = (pixels.reshape(-1, channels).min(0) == pixels.reshape(-1, channels).max(0)).all()
    part = pixels[:: -(-height // _SAMPLED), :: -(-width // _SAMPLED)].reshape(-1, channels).astype(np.float32)
    record['mean'], record['square'] = part.mean(0), np.square(part).mean(0)
    grey = pixels[..., 0] if channels == 1 else cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    record['thumbnail'] = cv2.resize(np.ascontiguousarray(grey), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


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
