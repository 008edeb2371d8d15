"""Transforms and views, registry ``TRANSFORMS``.

The path of an image to its views, with the file of each step::

    data set ─ image, SampleKey ─> MultiView, SingleView, MultiCrop           multi_view.py
      (seed, epoch, index, view) ─ uniform numbers ─> Recipe.draw ─> Draws    recipe.py
      image as uint8, Draws ─> write_views, one backend:                      backends.py
        numba: crop, resize, flip, colours, blur, type in one pass            numba_kernel.py
        torch: the same operations for a batch on any device                  torch_form.py
          of a batch of a data set: on the model's device                     deferred.py
        pil: torchvision's functions on PIL images                            backends.py
    other transforms than a recipe's: one after the other on an image         named.py, blur.py, erasing.py
    BatchMultiView: transforms of a whole batch in memory                     batch.py
"""

from unmix.datasets.transforms.batch import (
    BatchAffine,
    BatchColorJitter,
    BatchColorMap,
    BatchGamma,
    BatchMultiView,
    BatchNoise,
    BatchTransform,
)
from unmix.datasets.transforms.blur import PILGaussianBlur
from unmix.datasets.transforms.erasing import Cutout, RandomErasing
from unmix.datasets.transforms.images import to_bytes, to_pil, to_tensor
from unmix.datasets.transforms.multi_view import MultiCrop, MultiView, SingleView
from unmix.datasets.transforms.named import build_transform

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
    'RandomErasing',
    'SingleView',
    'build_transform',
    'to_bytes',
    'to_pil',
    'to_tensor',
]
