"""Transforms and views, registry ``TRANSFORMS``."""

from unmix.datasets.transforms.batch_ops import BatchAffine, BatchColorJitter, BatchGamma, BatchNoise, BatchTransform
from unmix.datasets.transforms.batch_views import BatchMultiView
from unmix.datasets.transforms.blur import PILGaussianBlur
from unmix.datasets.transforms.color_map import BatchColorMap
from unmix.datasets.transforms.erasing import Cutout, RandomErasing
from unmix.datasets.transforms.images import to_bytes, to_pil, to_tensor
from unmix.datasets.transforms.multi_crop import MultiCrop
from unmix.datasets.transforms.multi_view import MultiView, SingleView
from unmix.datasets.transforms.per_sample import RandomApply

__all__ = [
    'BatchAffine',
    'BatchColorJitter',
    'BatchColorMap',
    'BatchGamma',
    'BatchMultiView',
    'BatchNoise',
    'BatchTransform',
    'Cutout',
    'MultiCrop',
    'MultiView',
    'PILGaussianBlur',
    'RandomApply',
    'RandomErasing',
    'SingleView',
    'to_bytes',
    'to_pil',
    'to_tensor',
]
