"""Transforms of one image by torchvision's own names; PIL images and tensors."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torchvision.transforms as tv
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF

from unmix.registry import TRANSFORMS

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
    return cast(Transform, TRANSFORMS.build(cfg))


@TRANSFORMS.register_module()
class RandomApply(tv.RandomApply):
    """Apply all ``transforms``, given by configs, with probability ``p``, or none."""

    def __init__(self, transforms: Sequence[dict[str, Any] | Transform], p: float = 0.5) -> None:
        super().__init__([build_transform(cfg) for cfg in transforms], p)


def to_pil(image: Image.Image | Tensor) -> Image.Image:
    """Turn a tensor (C, H, W) in units of 0 to 255 into a PIL image; fractions are rounded.

    Raises:
        ValueError: If the tensor has not 1 or 3 channels.
    """
    return image if not isinstance(image, Tensor) else TF.to_pil_image(to_bytes(image))


def to_bytes(images: Tensor) -> Tensor:
    """Turn images (..., C, H, W) in units of 0 to 255 into uint8; fractions are rounded.

    Raises:
        ValueError: If they have not 1 or 3 channels.
    """
    if images.ndim < 3 or images.shape[-3] not in (1, 3):
        raise ValueError(
            f'MultiView and SingleView are for images of 1 or 3 channels, but the data set gave a tensor of shape '
            f'{tuple(images.shape)}. Use a pipeline of batch transforms (BatchMultiView).'
        )
    if images.is_floating_point():
        images = images.round().clamp(0, 255)
    return images.to(torch.uint8)


def to_tensor(image: Any) -> Tensor:
    """Turn a PIL image into a uint8 tensor (C, H, W).

    Raises:
        TypeError: If it is neither a PIL image nor a tensor.
    """
    if isinstance(image, Tensor):
        return image
    if isinstance(image, Image.Image):
        return cast(Tensor, TF.pil_to_tensor(image))
    raise TypeError(f'An image is a PIL image or a tensor (C, H, W), not {type(image).__name__}: check `load`.')
