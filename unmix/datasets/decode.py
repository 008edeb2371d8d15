"""Image files to pixels: JPEG by simplejpeg (libjpeg-turbo), which is bit-equal to PIL and faster; all else by PIL."""

import errno
import io
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from unmix.utils.names import path_bytes, shown

try:
    import simplejpeg
except ImportError:  # PIL reads JPEG too
    simplejpeg = None
try:
    import pillow_heif  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    pass
else:
    pillow_heif.register_heif_opener()  # PIL then reads HEIC

PLAIN = ('YCbCr', 'Gray', 'RGB')  # colour spaces that simplejpeg turns into RGB as PIL does
SUFFIXES = (  # PIL reads more: sources of images (.psd), icons, volumes of measurements (.fits)
    *('.apng', '.avif', '.bmp', '.dib', '.gif', '.heic', '.heif', '.hif', '.j2k', '.jfif', '.jp2', '.jpe', '.jpeg'),
    *('.jpg', '.pbm', '.pcx', '.pgm', '.png', '.pnm', '.ppm', '.qoi', '.tga', '.tif', '.tiff', '.webp'),
)
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # says nothing of the file
ORIENTATION = 0x0112  # the tag of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenImage(ValueError):
    """An image that cannot be read; the message says which and why."""


@cache
def readable_suffixes() -> frozenset[str]:
    """Return the suffixes, lower case, of the image files that can be read here: it depends on PIL and its plugins."""
    formats = Image.registered_extensions()
    return frozenset(suffix for suffix in SUFFIXES if formats.get(suffix) in Image.OPEN)


def read_image(path: str | bytes | Path, data: bytes | None = None, exif: bool = True) -> Image.Image:
    """Read an image file as RGB, by PIL; of 16-bit grey values the upper 8, where PIL would make all from 255 on white.

    Of a file with several frames or pages (GIF, TIFF) it is the first.

    Args:
        path: The file.
        data: Its bytes, if they have been read.
        exif: Turn the image as its EXIF orientation says. PIL itself turns a TIFF in either case.

    Raises:
        BrokenImage: If it is truncated, no image, or of other numbers than 8 or 16 bits.
    """
    try:
        with Image.open(path_bytes(path) if data is None else io.BytesIO(data)) as image:
            image.load()
            turn = _turn(image) if exif else None
            if image.mode[0] in 'IF':
                grey = np.asarray(image)
                if image.mode == 'F' or grey.min() < 0 or grey.max() >= 2**16:
                    raise ValueError(f'its values are of mode {image.mode}; expected 8 or 16 bits')
                image = Image.fromarray((grey >> 8).astype(np.uint8))
            found = image.convert('RGB')
            return found if turn is None else found.transpose(turn)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def decode_image(path: str | bytes | Path, least: int | None = None, exif: bool = True) -> Tensor:
    """Read an image file as RGB: uint8 (3, H, W), whose memory has the order of (H, W, 3).

    Args:
        path: The file.
        least: If given, a JPEG is decoded at n/8 of its size (n = 1 to 4), the smallest at which both sides have at
            least so many pixels. This is not bit-equal to what resizing would give: docs/speed.md.
        exif: As for :func:`read_image`.

    Raises:
        BrokenImage: If it is truncated or no image.
        OSError: If the process has no memory or file left.
    """
    try:
        with open(path_bytes(path), 'rb') as file:
            data = file.read()
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise
        raise _unreadable(path, error) from error
    pixels = _decode_jpeg(data, least) if simplejpeg is not None and data[:2] == b'\xff\xd8' else None
    if pixels is None:
        pixels = np.array(read_image(path, data, exif))
    elif exif and (b'Exif\0\0' in data or b'tiff:Orientation' in data):  # elsewhere there is no orientation
        with Image.open(io.BytesIO(data)) as image:
            turn = _turn(image)
        if turn is not None:
            pixels = np.array(Image.fromarray(pixels).transpose(turn))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _unreadable(path: str | bytes | Path, error: Exception) -> BrokenImage:
    reason = getattr(error, 'strerror', None) or str(error)
    if isinstance(error, UnidentifiedImageError):  # its text has an address in memory
        reason = 'it is empty, or no image of a format that PIL knows'
    return BrokenImage(f'The image {shown(path)} cannot be read ({reason}). Replace or delete the file.')


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return how an image is turned upright; None if it is, or if nothing, or nothing legible, says that it is not."""
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # of many types; the pixels are whole
        return None
    return TURNS.get(value) if isinstance(value, int) else None


def _decode_jpeg(data: bytes, least: int | None) -> np.ndarray | None:
    """Return (H, W, 3); None if it is no plain JPEG, truncated or huge, of which PIL knows what to say."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in PLAIN or height * width > (Image.MAX_IMAGE_PIXELS or height * width):
            return None
        scaled = least is not None and min(height, width) >= 2 * least
        options = dict(min_height=least, min_width=least, min_factor=2) if scaled else {}
        return np.asarray(simplejpeg.decode_jpeg(data, 'RGB', **options))
    except ValueError:
        return None
