"""Image files to pixels: JPEG by simplejpeg (libjpeg-turbo), which is bit-equal to PIL and faster; all else by PIL.

A data set may ask for another decoder: :mod:`unmix.datasets.decoders`.
"""

import errno
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from unmix.datasets.decoders import JPEG, ORIENTATION, TIFF, NoCodec, by_cv2, by_tifffile, by_turbojpeg, tiff_tag
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
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # (H, W, C) that is stored to upright
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: image[::-1].swapaxes(0, 1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: image[:, ::-1].swapaxes(0, 1),
}
TURNED = (b'Exif\0\0', b'tiff:Orientation')  # without these a JPEG has no orientation; nor do others without these:
# AVIF, which begins with ftyp, has the orientation in parts of its own (irot, imir): PIL is asked in each case
TURNED_OTHERS = (*TURNED, b'eXIf', b'EXIF', b'Raw profile type', b'com.adobe.xmp', b'ftyp')


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
            turn = turn_of(image) if exif else None
            if image.mode[0] in 'IF':
                grey = np.asarray(image)
                if image.mode == 'F' or grey.min() < 0 or grey.max() >= 2**16:
                    raise ValueError(f'its values are of mode {image.mode}; expected 8 or 16 bits')
                image = Image.fromarray((grey >> 8).astype(np.uint8))
            found = image.convert('RGB')
            return found if turn is None else Image.fromarray(np.ascontiguousarray(turn(np.asarray(found))))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise unreadable(path, error) from error


def read_file(path: str | bytes | Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        BrokenImage: If it cannot be read.
        OSError: If the process has no memory or file left.
    """
    try:
        with open(path_bytes(path), 'rb') as file:
            return file.read()
    except OSError as error:
        if error.errno in EXHAUSTED:
            raise
        raise unreadable(path, error) from error


def decode_image(
    path: str | bytes | Path,
    least: int | None = None,
    exif: bool = True,
    data: bytes | None = None,
    decoder: str = 'auto',
) -> Tensor:
    """Read an image file: (C, H, W), whose memory has the order of (H, W, C).

    * ``'auto'``: JPEG by simplejpeg, all else by PIL: RGB, uint8; of 16-bit grey values the upper 8 bits.
    * ``'pil'``: all by PIL, the same pixels.
    * ``'turbojpeg'``: JPEG by PyTurboJPEG, all else by PIL, the same pixels.
    * ``'cv2'``: all by OpenCV, as stored: uint8, uint16 or float32; RGB, RGBA, or 1 channel. JPEGs and grey images of 8
      bits become RGB.
    * ``'tifffile'``: TIFFs by tifffile, as stored, with any number of channels; all else as by ``'auto'``.

    Args:
        path: The file.
        least: If given, a JPEG is decoded at n/8 of its size (n = 1 to 4), the smallest at which both sides have at
            least so many pixels. This is not bit-equal to what resizing would give: docs/speed.md. Not for ``pil``,
            ``cv2`` and ``tifffile``.
        exif: As for :func:`read_image`; ``cv2`` turns a TIFF in either case, as PIL does, and ``tifffile`` does not.
        data: The bytes of the file, if they have been read.
        decoder: What decodes it. :func:`~unmix.datasets.decoders.check_decoder` says whether it is there.

    Raises:
        BrokenImage: If it is truncated or no image.
        OSError: If the process has no memory or file left.
    """
    if data is None:
        data = read_file(path)
    try:
        pixels = _decode(data, least, decoder)
    except ValueError as error:
        raise unreadable(path, error) from error
    if pixels is None:
        pixels = np.array(read_image(path, data, exif))
    elif exif and (turn := _turn_of(data, decoder)) is not None:
        pixels = turn(pixels)
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)


def _decode(data: bytes, least: int | None, decoder: str) -> np.ndarray | None:
    """Return the pixels as they are stored, (H, W, C); None if they are to be read by PIL."""
    if decoder == 'cv2':
        return by_cv2(data)
    if decoder == 'tifffile' and data[:4] in TIFF:
        return by_tifffile(data)
    if decoder == 'pil' or not data.startswith(JPEG):
        return None
    if decoder == 'turbojpeg':
        return by_turbojpeg(data, least, Image.MAX_IMAGE_PIXELS)
    return _decode_jpeg(data, least) if simplejpeg is not None else None


def _turn_of(data: bytes, decoder: str) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return how a file is turned upright, as :func:`turn_of`; of a TIFF cv2 has done so, as PIL would."""
    if data[:4] in TIFF:
        return None if decoder == 'cv2' else TURNS.get(tiff_tag(data, ORIENTATION))
    jpeg = data.startswith(JPEG)
    end = _before_pixels(data) if jpeg else len(data)
    if all(data.find(sign, 0, end) < 0 for sign in (TURNED if jpeg else TURNED_OTHERS)):
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            return turn_of(image)
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):  # a format that PIL has not
        return None


def _before_pixels(data: bytes) -> int:
    """Return how many bytes of a JPEG come before its pixels; all, if its segments do not tell."""
    at = 2
    while data[at : at + 1] == b'\xff':
        marker = data[at + 1 : at + 2]
        if marker == b'\xda':
            return at
        if marker == b'\xff':  # fills up
            at += 1
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
    return len(data)


def unreadable(path: str | bytes | Path, error: Exception) -> BrokenImage:
    """Return what is wrong with an image that cannot be read."""
    reason = getattr(error, 'strerror', None) or str(error)
    if isinstance(error, UnidentifiedImageError):  # its text has an address in memory
        reason = 'it is empty, or no image of a format that PIL knows'
    advice = 'Put it back' if isinstance(error, FileNotFoundError) else 'Replace or delete the file'
    if isinstance(error, NoCodec):
        advice = (
            "The file may be whole. Install the package: pip install imagecodecs; or set dataset.decoder to 'cv2', or "
            "to 'pil', which makes it RGB of 8 bits"
        )
    return BrokenImage(f'The image {shown(path)} cannot be read ({reason}). {advice}.')


def turn_of(image: Image.Image) -> Callable[[np.ndarray], np.ndarray] | None:
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
