"""Transforms of one image: torchvision's, by their own names, with random numbers that depend on the image alone."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from random import uniform
from typing import Any

import torch
import torchvision.transforms as tv
from PIL import Image, ImageFilter
from torch import Tensor
from torch.utils.data import get_worker_info
from torchvision.transforms import functional as TF

from unmix.datasets.samplers import SampleKey
from unmix.registry import TRANSFORMS
from unmix.utils.rng import preserved, reseed

Transform = Callable[[Any], Any]

for _transform in (
    tv.CenterCrop,
    tv.ColorJitter,
    tv.Grayscale,
    tv.PILToTensor,
    tv.RandomCrop,
    tv.RandomGrayscale,
    tv.RandomHorizontalFlip,
    tv.RandomResizedCrop,
    tv.RandomRotation,
    tv.RandomSolarize,
    tv.Resize,
):
    TRANSFORMS.register_module(module=_transform)


def build_transform(cfg: dict[str, Any] | Transform) -> Transform:
    """Build a transform; ``interpolation`` is given by name, e.g. 'bicubic'."""
    if not isinstance(cfg, dict):
        return cfg
    if isinstance(cfg.get('interpolation'), str):
        cfg = cfg | {'interpolation': tv.InterpolationMode(cfg['interpolation'])}
    return TRANSFORMS.build(cfg)


@TRANSFORMS.register_module()
class RandomApply(tv.RandomApply):
    """Apply all ``transforms``, given by configs, with probability ``p``, or none."""

    def __init__(self, transforms: Sequence[dict[str, Any] | Transform], p: float = 0.5) -> None:
        super().__init__([build_transform(cfg) for cfg in transforms], p)


@TRANSFORMS.register_module()
class PILGaussianBlur:
    """Blur with PIL's Gaussian, radius ~ U(sigma) (SimCLR's, as in `MoCo v2 <https://arxiv.org/abs/2003.04297>`_)."""

    def __init__(self, sigma: tuple[float, float] = (0.1, 2.0)) -> None:
        self.sigma = tuple(sigma)

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the blurred image."""
        return image.filter(ImageFilter.GaussianBlur(radius=uniform(*self.sigma)))


def to_pil(image: Image.Image | Tensor) -> Image.Image:
    """Turn a tensor (C, H, W) in units of 0 to 255 into a PIL image; fractions are rounded.

    Raises:
        ValueError: If the tensor has not 1 or 3 channels.
    """
    if not isinstance(image, Tensor):
        return image
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(
            f"MultiView and SingleView apply torchvision's transforms to PIL images of 1 or 3 channels, but the data "
            f'set gave a tensor of shape {tuple(image.shape)}. Use a pipeline of batch transforms (BatchMultiView).'
        )
    if image.is_floating_point():
        image = image.round().clamp(0, 255)
    return TF.to_pil_image(image.to(torch.uint8))


def to_tensor(image: Image.Image | Tensor) -> Tensor:
    """Turn a PIL image into a uint8 tensor (C, H, W).

    Raises:
        TypeError: If it is neither a PIL image nor a tensor.
    """
    if isinstance(image, Tensor):
        return image
    if isinstance(image, Image.Image):
        return TF.pil_to_tensor(image)
    raise TypeError(f'An image is a PIL image or a tensor (C, H, W), not {type(image).__name__}: check `load`.')


@TRANSFORMS.register_module()
class MultiView:
    """Several views of one image, by the same transforms with their own random numbers.

    The numbers are a function of (seed, epoch, index, view). Transforms work on PIL images; the views are uint8 tensors
    (C, H, W), whether or not the transforms end in ``PILToTensor``.

    Args:
        transforms: Configs of torchvision's transforms, or callables.
        num_views: Number of views V.
        first_view: Number of the first one, where others come before; see :class:`MultiCrop`.
    """

    def __init__(
        self, transforms: Sequence[dict[str, Any] | Transform], num_views: int = 2, first_view: int = 0
    ) -> None:
        self.transforms = tv.Compose([build_transform(cfg) for cfg in transforms])
        self.num_views = num_views
        self.first_view = first_view

    def __call__(self, image: Image.Image | Tensor, key: SampleKey) -> Any:
        """Return the views of an image: list of V tensors (C, H, W)."""
        image = to_pil(image)
        views = []
        # Restoring costs more than seeding, and in a worker nothing else draws.
        with preserved() if get_worker_info() is None else nullcontext():
            for view in range(self.first_view, self.first_view + self.num_views):
                reseed('augmentation', key.seed, key.epoch, key.index, view)
                views.append(to_tensor(self.transforms(image)))
        return views


@TRANSFORMS.register_module()
class SingleView(MultiView):
    """One view, as a tensor: for evaluation, or supervised training."""

    def __init__(self, transforms: Sequence[dict[str, Any] | Transform]) -> None:
        super().__init__(transforms, num_views=1)

    def __call__(self, image: Image.Image | Tensor, key: SampleKey) -> Tensor:
        """Return the view of an image: (C, H, W)."""
        return super().__call__(image, key)[0]
