"""Colour for grey images."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unmix.datasets.transforms.batch_ops import BatchTransform, Uniform
from unmix.registry import TRANSFORMS


@TRANSFORMS.register_module()
class BatchColorMap(BatchTransform):
    """Map grey images to colours, a little other ones for each image and view.

    For methods that need colour (CMC) on data that have none: black and white become two colours, to each channel of
    which a number of U(-jitter, jitter) is added, and grey lies between them. So lightness and colour show the same
    shapes, and neither of them gives the other away.

    Args:
        palette: Colours of black and white, R, G, B in 0 to 255; for evaluation see ``palette`` of
            :class:`~unmix.models.ColorPreprocessor`.
        jitter: In units of 0 to 255; the colours are clamped to that range.
    """

    def __init__(self, palette: Sequence[Sequence[float]], jitter: float = 40.0) -> None:
        self.palette = np.asarray(palette, np.float64)
        self.jitter = jitter

    def draw(self, uniform: Uniform, shape: torch.Size) -> Tensor:
        """Draw the colours of black and of white: (N, 2, 3)."""
        colors = self.palette + self.jitter * (2 * uniform(6).reshape(-1, 2, 3) - 1)
        return torch.from_numpy(colors.clip(0, 255).astype(np.float32))

    def apply(self, images: Tensor, params: Tensor) -> Tensor:
        """Colour images (N, 1, H, W): (N, 3, H, W).

        Raises:
            ValueError: If the images are not grey.
        """
        if images.shape[1] != 1:
            raise ValueError(f'BatchColorMap colours grey images; these have {images.shape[1]} channels.')
        black, white = params[:, :, :, None, None].unbind(1)
        return black + (white - black) * images / 255
