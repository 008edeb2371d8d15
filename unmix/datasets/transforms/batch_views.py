"""Views of a whole batch at once, for small images in memory."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from unmix.datasets.samplers import SampleKey, one_run
from unmix.datasets.transforms.batch_ops import BatchTransform
from unmix.datasets.transforms.images import to_tensor
from unmix.registry import TRANSFORMS
from unmix.utils.rng import stream, uniforms


@TRANSFORMS.register_module()
class BatchMultiView:
    """Several views of each image of a batch, as floats in units of 0 to 255.

    The random numbers are a function of (seed, epoch, index, view, name of the transform): not of the batch, and not of
    the other transforms.

    Args:
        transforms: Configs of batch transforms (``BatchAffine``, ...), or such objects.
        num_views: Number of views V.
    """

    def __init__(self, transforms: Sequence[dict[str, Any] | BatchTransform], num_views: int = 2) -> None:
        self.transforms = [TRANSFORMS.build(cfg) if isinstance(cfg, dict) else cfg for cfg in transforms]
        self.num_views = num_views
        self.names = _names(self.transforms)

    def batch(self, images: Tensor, keys: Sequence[SampleKey]) -> list[Tensor]:
        """Return the views of images (N, C, H, W): V such tensors.

        Raises:
            ValueError: If the keys are of more than one seed or epoch.
        """
        purpose = ('augmentation', *one_run(keys))
        index = np.array([key.index for key in keys])
        views = []
        for view in range(self.num_views):
            mapped = images.float()
            for name, transform in zip(self.names, self.transforms, strict=True):
                uniform = partial(uniforms, stream(*purpose, view, name), index)
                mapped = transform.apply(mapped, transform.draw(uniform, mapped.shape))
            views.append(mapped)
        return views

    def __call__(self, image: Image.Image | Tensor, key: SampleKey) -> list[Tensor]:
        """Return the views of one image, V tensors (C, H, W): the same as in a batch."""
        return [view[0] for view in self.batch(to_tensor(image)[None], [key])]


def _names(transforms: Sequence[BatchTransform]) -> list[str]:
    """Class names; a second one of a class is numbered, so that it draws its own numbers."""
    seen: Counter[str] = Counter()
    names = []
    for transform in transforms:
        name = type(transform).__name__
        names.append(f'{name}.{seen[name]}' if seen[name] else name)
        seen[name] += 1
    return names
