"""Decoders that a data set may ask for by name, registry key ``dataset.decoder``: OpenCV, libjpeg-turbo, tifffile.

Without a name JPEGs are decoded by simplejpeg and all else by PIL (:mod:`unmix.datasets.decode`), always to RGB of 8
bits. OpenCV and tifffile keep what that leaves out: 16 bits, floats, more channels.
"""

import io
import struct
from functools import cache
from typing import Any

import numpy as np

DECODERS = ('auto', 'pil', 'cv2', 'turbojpeg', 'tifffile')
STORED = ('cv2', 'tifffile')  # these keep more than RGB of 8 bits
SCALING = ('auto', 'turbojpeg')  # these decode a JPEG at n/8 of its size
JPEG = b'\xff\xd8'
TIFF = {b'II*\0': '<', b'MM\0*': '>', b'II+\0': '<', b'MM\0+': '>'}  # and the order of bytes; the last two: BigTIFF
SAMPLES, ORIENTATION, SHORT = 277, 274, 3  # two tags of TIFF, and the type of their values


class NoCodec(ValueError):
    """A TIFF whose compression tifffile can undo only with the package imagecodecs, which is not there."""


def check_decoder(decoder: str, decode_size: int | None = None) -> None:
    """Check that a decoder can be used here.

    Raises:
        ImportError: If its package, or a library of that, is not installed.
        ValueError: If there is no such decoder, or it cannot decode a part of the size.
    """
    if decoder not in DECODERS:
        raise ValueError(f'dataset.decoder is {decoder!r}; expected one of {", ".join(map(repr, DECODERS))}.')
    if decode_size is not None and decoder not in SCALING:
        raise ValueError(
            f'dataset.decode_size is {decode_size} with decoder={decoder!r}, which decodes images at their whole size '
            f'only. Leave decode_size out, or set dataset.decoder to {" or ".join(map(repr, SCALING))}.'
        )
    if decoder == 'turbojpeg':
        _turbojpeg()
    elif decoder == 'tifffile':
        _tifffile()


def by_cv2(data: bytes) -> np.ndarray:
    """Decode a file by OpenCV, as it is stored: (H, W, C), RGB or RGBA where it has 3 or 4 channels.

    A JPEG and a grey image of 8 bits become RGB, so that a folder may mix these with others. Of files with several
    frames or pages it is the first. The EXIF orientation is not regarded, but for TIFF, as by PIL.

    Raises:
        ValueError: If it cannot be read, or not with all of its channels.
    """
    import cv2  # takes a tenth of a second

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the error below says it, with the file
    if data.startswith(JPEG):
        check_end(data)
    flag = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION if data.startswith(JPEG) else cv2.IMREAD_UNCHANGED
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag) if data else None
    except cv2.error as error:
        raise ValueError(f'cv2: {str(error.err or error).strip()}') from error
    if pixels is None:
        advice = "; dataset.decoder='tifffile' reads TIFFs of any number of channels" if data[:4] in TIFF else ''
        raise ValueError(f'it is truncated, or no image that cv2 can decode{advice}')
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if data[:4] in TIFF and channels < (samples := tiff_tag(data, SAMPLES)):
        raise ValueError(f"cv2 finds {channels} of its {samples} channels; set dataset.decoder='tifffile'")
    if data.startswith(JPEG):
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    if channels == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3 if pixels.dtype == np.uint8 else 1, axis=2)
    return np.asarray(pixels[..., [2, 1, 0, *range(3, channels)]])


def by_turbojpeg(data: bytes, least: int | None, largest: int | None) -> np.ndarray | None:
    """Decode a JPEG by PyTurboJPEG: RGB (H, W, 3), at the size of :func:`unmix.datasets.decode.decode_image`.

    Args:
        data: The bytes of the file.
        least: As for :func:`unmix.datasets.decode.decode_image`.
        largest: Largest number of pixels.

    Returns:
        The pixels; None if it is CMYK or larger, of which PIL knows what to do.

    Raises:
        ValueError: If it cannot be read.
    """
    library, module = _turbojpeg()
    check_end(data)
    try:
        width, height, _, space = library.decode_header(data)[:4]
        if space in (module.TJCS_CMYK, module.TJCS_YCCK) or height * width > (largest or height * width):
            return None
        scales = sorted(library.scaling_factors, key=lambda factor: factor[0] / factor[1])
        side = min(height, width)
        scaled = least is not None and side >= 2 * least
        fitting = [(n, d) for n, d in scales if scaled and -(-side * n // d) >= (least or 0)]
        return np.asarray(library.decode(data, pixel_format=module.TJPF_RGB, scaling_factor=next(iter(fitting), None)))
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(str(error)) from error


def by_tifffile(data: bytes) -> np.ndarray:
    """Decode a TIFF by tifffile, as it is stored: (H, W, C).

    Its channels may be samples of a pixel, planes, or pages: one axis beside height and width.

    Raises:
        NoCodec: If tifffile needs the package imagecodecs for it: LZW, JPEG, CCITT and others.
        ValueError: If it cannot be read, has more axes, or other numbers than a tensor has.
    """
    module = _tifffile()
    try:
        with module.TiffFile(io.BytesIO(data)) as file:
            series = file.series[0]
            axes, pixels = series.axes, series.asarray()
    except Exception as error:  # of many types
        reason = ' '.join(str(error).split()) or type(error).__name__
        if isinstance(error, ImportError) or "requires the 'imagecodecs' package" in reason:
            raise NoCodec(reason) from error
        raise ValueError(reason) from error
    kept = [axis for axis, size in zip(axes, pixels.shape, strict=True) if axis in 'YX' or size > 1]
    pixels = pixels.reshape([size for axis, size in zip(axes, pixels.shape, strict=True) if axis in kept])
    others = [axis for axis in kept if axis not in 'YX']
    if 'Y' not in kept or 'X' not in kept or len(others) > 1:
        raise ValueError(f'it has the axes {axes} {pixels.shape}; expected Y, X and at most one of channels')
    if pixels.dtype.kind not in 'iuf' or pixels.dtype.itemsize > 8:
        raise ValueError(f'its values are {pixels.dtype}; expected integers or floats')
    pixels = pixels.astype(pixels.dtype.newbyteorder('='), copy=False)
    return np.asarray(pixels.transpose([kept.index(axis) for axis in ('Y', 'X', *others)]).reshape(
        *(pixels.shape[kept.index(axis)] for axis in 'YX'), -1
    ))  # fmt: skip


def check_end(data: bytes) -> None:
    """Check that a JPEG has an end: decoders fill the part that is missing with grey.

    Raises:
        ValueError: If it has none.
    """
    place = 2
    while data[place : place + 1] == b'\xff' and data[place + 1 : place + 2] != b'\xda':  # up to the start of the scan
        place += 1 if data[place + 1 : place + 2] == b'\xff' else 2 + int.from_bytes(data[place + 2 : place + 4], 'big')
    if data.find(b'\xff\xd9', place) < 0:  # thumbnails, which have an end too, come before
        raise ValueError('it is truncated')


def tiff_tag(data: bytes, tag: int) -> int:
    """Return a tag of the first page of a TIFF, whose value is a small number; 1 without it, and of a BigTIFF."""
    order = TIFF[data[:4]]
    if b'+' in data[:4]:
        return 1
    try:
        (start,) = struct.unpack_from(f'{order}I', data, 4)
        (entries,) = struct.unpack_from(f'{order}H', data, start)
        for number in range(entries):
            found, kind, _ = struct.unpack_from(f'{order}HHI', data, start + 2 + 12 * number)
            if found == tag:
                form = 'H' if kind == SHORT else 'I'
                return int(struct.unpack_from(order + form, data, start + 10 + 12 * number)[0])
    except struct.error:
        pass
    return 1


@cache
def _turbojpeg() -> tuple[Any, Any]:
    """Return the library and the module of PyTurboJPEG."""
    try:
        import turbojpeg
    except ImportError as error:
        raise ImportError(
            "dataset.decoder='turbojpeg' needs the package PyTurboJPEG (pip install 'unmix[turbojpeg]') and the "
            "library libturbojpeg; dataset.decoder='auto' decodes JPEGs by the same library, within simplejpeg."
        ) from error
    try:
        return turbojpeg.TurboJPEG(), turbojpeg
    except (OSError, RuntimeError) as error:
        raise ImportError(
            f"dataset.decoder='turbojpeg': PyTurboJPEG cannot use libturbojpeg ({str(error).splitlines()[0]}). Install "
            "the library (Debian: apt install libturbojpeg0; PyTurboJPEG 2 needs its version 3, 'PyTurboJPEG<2' takes "
            "2), or set dataset.decoder='auto', which has it within simplejpeg."
        ) from error


@cache
def _tifffile() -> Any:
    """Return the module tifffile."""
    try:
        import tifffile
    except ImportError as error:
        raise ImportError(
            "dataset.decoder='tifffile' needs the package tifffile: pip install 'unmix[tifffile]'."
        ) from error
    return tifffile
