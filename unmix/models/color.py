"""Colour spaces that separate lightness from colour."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unmix.models.data_preprocessor import DataPreprocessor
from unmix.registry import MODELS

_RGB_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)  # D65, 2 degrees
_RGB_TO_YCBCR = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))
_YCBCR_OFFSET = (16.0, 128.0, 128.0)

# CMC's mean and std: the middle and half the range of each channel in Lab; for YCbCr as published.
STATISTICS = {
    'lab': ((50.0, 6.025, -6.6895), (50.0, 92.208, 101.1675)),
    'ycbcr': ((116.151, 121.080, 132.342), (109.500, 111.855, 111.964)),
}


@cache
@torch.inference_mode(False)
def _constant(values: tuple[Any, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return a tensor of numbers, copied to the device once."""
    return torch.tensor(values, dtype=dtype, device=device)


def _matrix(rows: tuple[tuple[float, ...], ...], images: Tensor) -> Tensor:
    """Multiply the channels of images (N, 3, H, W) by a matrix."""
    return torch.einsum('dc,nchw->ndhw', _constant(rows, images.dtype, images.device), images)


def _vector(values: tuple[float, ...], images: Tensor) -> Tensor:
    """Return a value for each channel of images (N, 3, H, W): (3, 1, 1)."""
    return _constant(values, images.dtype, images.device).view(3, 1, 1)


def rgb_to_lab(images: Tensor) -> Tensor:
    """Convert sRGB images (N, 3, H, W) in units of 0 to 255 to CIE-Lab: L in [0, 100], a and b about [-108, 99]."""
    rgb = images / 255
    linear = torch.where(rgb > 0.04045, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = _matrix(_RGB_TO_XYZ, linear) / _vector(_WHITE, images)
    root = torch.where(xyz > 0.008856, xyz.clamp(min=1e-9) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = root.unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def rgb_to_ycbcr(images: Tensor) -> Tensor:
    """Convert RGB images (N, 3, H, W) in units of 0 to 255 to YCbCr (ITU-R BT.601): 16 to 235 and 16 to 240."""
    return _matrix(_RGB_TO_YCBCR, images / 255) + _vector(_YCBCR_OFFSET, images)


@MODELS.register_module()
class ColorPreprocessor(DataPreprocessor):
    """Convert RGB batches to Lab or YCbCr on the device, and normalise (`CMC <https://arxiv.org/abs/1906.05849>`_).

    The released code converts each image in the loader, by scikit-image. Crops and flips commute with that.

    Args:
        color_space: ``'lab'`` or ``'ycbcr'``.
        mean: Of the converted channels; None: the published.
        std: Likewise.
        palette: For grey images: the colours (R, G, B in 0 to 255) of black and white, between which grey is
            interpolated. Otherwise they would have no colour to tell.
        **kwargs: As in :class:`DataPreprocessor`.

    Raises:
        ValueError: If the colour space is another one, or the images are grey and there is no palette.
    """

    def __init__(
        self,
        color_space: str = 'lab',
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        palette: Sequence[Sequence[float]] | None = None,
        **kwargs: Any,
    ) -> None:
        if color_space not in STATISTICS:
            raise ValueError(f'data_preprocessor.color_space is {color_space!r}; it is one of {sorted(STATISTICS)}.')
        published = STATISTICS[color_space]
        super().__init__(mean or published[0], std or published[1], **kwargs)
        self.convert = rgb_to_lab if color_space == 'lab' else rgb_to_ycbcr
        self.palette = None if palette is None else tuple(map(tuple, palette))

    def normalize(self, images: Tensor) -> Tensor:
        """Convert and normalise images (N, 3, H, W), or (N, 1, H, W) with a palette, of any real type."""
        images = images if images.is_floating_point() else images.float()
        if images.shape[1] == 1 and self.palette is not None:
            black, white = _constant(self.palette, images.dtype, images.device)[:, :, None, None]
            images = black + (white - black) * images / 255
        if images.shape[1] != 3:
            raise ValueError(
                f'The images have {images.shape[1]} channels; Lab and YCbCr are made of RGB images, or of grey ones '
                'with data_preprocessor.palette, the colours of black and white.'
            )
        return super().normalize(self.convert(images))

    def restore(self, images: Tensor) -> Tensor:
        """Undo :meth:`normalize` for pictures: RGB images (N, 3, H, W) in [0, 1], on the host."""
        import cv2  # takes a tenth of a second

        assert self.mean is not None
        assert self.std is not None
        values = (images.float() * self.std + self.mean).cpu()
        if self.convert is rgb_to_lab:
            pixels = [cv2.cvtColor(each.permute(1, 2, 0).numpy(), cv2.COLOR_Lab2RGB) for each in values]
            return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).clamp(0, 1)
        inverse = torch.linalg.inv(torch.tensor(_RGB_TO_YCBCR))
        return torch.einsum('dc,nchw->ndhw', inverse, values - _vector(_YCBCR_OFFSET, values)).clamp(0, 1)
