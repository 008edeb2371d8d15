"""Image files to pixels: JPEG by simplejpeg (libjpeg-turbo), which is bit-equal to PIL and faster; all else by PIL."""

import io
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

try:
    import simplejpeg
except ImportError:  # PIL reads JPEG too
    simplejpeg = None

PLAIN = ('YCbCr', 'Gray', 'RGB')  # colour spaces that simplejpeg turns into RGB as PIL does


def read_image(path: str | Path, data: bytes | None = None) -> Image.Image:
    """Read an image file as RGB, by PIL; of 16-bit grey values the upper 8, where PIL would make all from 255 on white.

    Args:
        path: The file.
        data: Its bytes, if they have been read.

    Raises:
        ValueError: If it is truncated, no image, or of other numbers than 8 or 16 bits.
    """
    try:
        with Image.open(path if data is None else io.BytesIO(data)) as image:
            if image.mode[0] not in 'IF':
                return cast(Image.Image, image.convert('RGB'))
            grey = np.asarray(image)
            if image.mode == 'F' or grey.min() < 0 or grey.max() >= 2**16:
                raise ValueError(f'its values are of mode {image.mode}; expected 8 or 16 bits')
            return Image.fromarray((grey >> 8).astype(np.uint8)).convert('RGB')
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f'The image {path} cannot be read ({error}). Replace or delete the file.') from error


def decode_image(path: str | Path, least: int | None = None) -> Tensor:
    """Read an image file as RGB: uint8 (3, H, W), whose memory has the order of (H, W, 3).

    Args:
        path: The file.
        least: If given, a JPEG is decoded at n/8 of its size (n = 1 to 4), the smallest at which both sides have at
            least so many pixels. This is not bit-equal to what resizing would give: docs/speed.md.

    Raises:
        ValueError: If it is truncated or no image.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f'The image {path} cannot be read ({error}). Replace or delete the file.') from error
    pixels = _decode_jpeg(data, least) if simplejpeg is not None and data[:2] == b'\xff\xd8' else None
    if pixels is None:
        pixels = np.array(read_image(path, data))
    return torch.from_numpy(pixels).permute(2, 0, 1)


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
