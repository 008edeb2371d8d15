"""Transforms of one image: torchvision's, by their own names."""

from collections.abc import Callable, Sequence
from typing import Any

import torchvision.transforms as tv

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
    return TRANSFORMS.build(cfg)


@TRANSFORMS.register_module()
class RandomApply(tv.RandomApply):
    """Apply all ``transforms``, given by configs, with probability ``p``, or none."""

    def __init__(self, transforms: Sequence[dict[str, Any] | Transform], p: float = 0.5) -> None:
        super().__init__([build_transform(cfg) for cfg in transforms], p)
