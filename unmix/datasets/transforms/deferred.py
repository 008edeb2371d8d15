"""Views that the model's device makes, of images that workers have decoded.

N images, C channels, H, W pixels; views of h, w.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from unmix.datasets.transforms.backends import finished
from unmix.datasets.transforms.recipe import Draws
from unmix.datasets.transforms.torch_form import torch_views
from unmix.utils.rng import to_device

Array = np.ndarray[Any, Any]
NUMBERS = 1 << 26  # of images that are changed at a time: 256 MiB in float32


@dataclass
class Kind:
    """How V views of one kind are made of each image of a batch.

    Attributes:
        draws: Parameters of the V * N views, one view after the other.
        num_views: V.
        dtype: Type of the views.
        mean: Views that are not uint8 are ``(view - mean) * scale``; of each channel, or one for all.
        scale: See ``mean``.
    """

    draws: Draws
    num_views: int
    dtype: torch.dtype
    mean: Array
    scale: Array

    def rows(self, rows: Array) -> Draws:
        """Return the parameters of the V views of some images."""
        num = len(self.draws.boxes) // self.num_views
        return self.draws.rows((num * np.arange(self.num_views)[:, None] + rows).ravel())


@dataclass
class DeferredViews:
    """Images of a batch and the parameters of their views; :meth:`make` makes the views on a device.

    A data set whose pipeline has ``backend='torch'`` returns it as ``inputs``, and :class:`DataPreprocessor` calls
    :meth:`make`. The parameters are drawn in the worker, from (seed, epoch, index, view) as those of all backends, so
    views do not depend on where they are made, up to rounding, and a resumed run has the same. Iterating over it makes
    the views where the images are.

    Attributes:
        pixels: Images (N, C, H, W); or, of images of several sizes, the numbers of all as (H, W, C), one after the
            other.
        sizes: Heights and widths (N, 2).
        channels: C.
        kinds: Of their views.
    """

    pixels: Tensor
    sizes: Array
    channels: int
    kinds: list[Kind]

    @classmethod
    def of(cls, images: Tensor | Sequence[Tensor], kinds: list[Kind]) -> 'DeferredViews':
        """Keep images (N, C, H, W), or N images (C, H, W) of any sizes, in shared memory if in a worker."""
        if isinstance(images, Tensor):
            return cls(images, np.tile(images.shape[-2:], (len(images), 1)), images.shape[1], kinds)
        sizes = np.array([image.shape[-2:] for image in images])
        room = torch.empty(sum(image.numel() for image in images), dtype=images[0].dtype)
        if get_worker_info() is not None:
            room.share_memory_()
        torch.cat([image.permute(1, 2, 0).reshape(-1) for image in images], out=room)
        return cls(room, sizes, images[0].shape[0], kinds)

    def pin_memory(self) -> 'DeferredViews':
        """Return the same with images in pinned memory; a DataLoader with ``pin_memory`` calls it."""
        return replace(self, pixels=self.pixels.pin_memory())

    def __len__(self) -> int:
        return sum(kind.num_views for kind in self.kinds)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.make(self.pixels.device))

    def __getitem__(self, view: int) -> Tensor:
        return self.make(self.pixels.device)[view]

    @torch.no_grad()
    def make(self, device: torch.device) -> list[Tensor]:
        """Return all views, (N, C, h, w) each, on a device. The host does not wait for it if the images are pinned.

        They are computed in float32, also under autocast, in which the training step makes them.
        """
        with torch.autocast(device.type, enabled=False):
            return self._make(device)

    def _make(self, device: torch.device) -> list[Tensor]:
        pixels, num = self.pixels.to(device, non_blocking=True), len(self.sizes)
        made = [
            torch.empty((kind.num_views, num, self.channels, *kind.draws.size), dtype=kind.dtype, device=device)
            for kind in self.kinds
        ]
        for rows in self._groups():
            images, index = self._images(pixels, rows), to_device(rows, device)
            for kind, out in zip(self.kinds, made, strict=True):
                views = finished(torch_views(images, kind.rows(rows)), kind.dtype, kind.mean, kind.scale)
                out.index_copy_(1, index, views.view(kind.num_views, len(rows), *out.shape[2:]))
        return [view for out in made for view in out.unbind()]

    def _groups(self) -> Iterator[Array]:
        """Yield the rows of images that are changed together: images of about one size, so that little is padded."""
        order = np.arange(len(self.sizes)) if self.pixels.ndim == 4 else np.lexsort(self.sizes.T)
        # A change of colour before the crop looks at the whole image, so this must not be padded.
        alone = self.pixels.ndim == 1 and any(kind.draws.split for kind in self.kinds)
        largest = max(kind.num_views * math.prod(kind.draws.size) for kind in self.kinds)
        start = 0
        for stop in range(1, len(order) + 1):
            following = order[start : stop + 1]
            numbers = max(math.prod(self.sizes[following].max(0).tolist()), largest)
            full = len(following) * self.channels * numbers > NUMBERS
            if stop == len(order) or alone or full:
                yield order[start:stop]
                start = stop

    def _images(self, pixels: Tensor, rows: Array) -> Tensor:
        """Return some images as (n, C, H, W), those of other sizes with zeros below and to the right of them."""
        if pixels.ndim == 4:
            return pixels if len(rows) == len(pixels) else pixels[int(rows[0]) : int(rows[-1]) + 1]
        ends = np.cumsum(self.sizes.prod(1) * self.channels).tolist()
        padded = pixels.new_zeros((len(rows), self.channels, *self.sizes[rows].max(0).tolist()))
        for image, row in zip(padded, rows.tolist(), strict=True):
            height, width = self.sizes[row].tolist()
            numbers = pixels[ends[row] - height * width * self.channels : ends[row]]
            image[:, :height, :width] = numbers.view(height, width, self.channels).permute(2, 0, 1)
        return padded
