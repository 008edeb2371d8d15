"""Data sets in memory."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unmix.datasets.base import BaseDataset, Pipeline
from unmix.datasets.samplers import SampleKey
from unmix.registry import DATASETS


@DATASETS.register_module()
class ArrayDataset(BaseDataset):
    """Images in memory. Without a pipeline, or with one of batch transforms, a batch is built as a whole.

    Args:
        images: (N, C, H, W), uint8, or floats in units of 0 to 255.
        labels: (N,) integers from 0, or None.
        pipeline: As for :class:`BaseDataset`.

    Raises:
        ValueError: If the shapes do not fit, or there is no image.
    """

    def __init__(
        self,
        images: Tensor | np.ndarray,
        labels: Tensor | np.ndarray | Sequence[int] | None = None,
        pipeline: dict[str, Any] | Pipeline | None = None,
    ) -> None:
        super().__init__(pipeline)
        self.images = torch.as_tensor(images)
        self.labels = None if labels is None else torch.as_tensor(labels).long()
        name = type(self).__name__
        if self.images.ndim != 4 or len(self.images) == 0:
            raise ValueError(f'{name}: images are (N, C, H, W) with N > 0, not {tuple(self.images.shape)}.')
        if self.labels is not None and self.labels.shape != self.images.shape[:1]:
            raise ValueError(f'{name}: {len(self.images)} images, but labels of shape {tuple(self.labels.shape)}.')

    def __len__(self) -> int:
        return len(self.images)

    def load(self, index: int) -> tuple[Tensor, int | None]:
        """Return an image (C, H, W) and its label."""
        return self.images[index], None if self.labels is None else int(self.labels[index])

    def content(self, index: int) -> bytes:
        """Return the pixels."""
        return self.images[index].numpy().tobytes()

    def batch(self, keys: Sequence[int | SampleKey]) -> dict[str, Any] | list[dict[str, Any]]:
        """Return a batch, or a list of items if the pipeline takes one image at a time."""
        if self.pipeline is not None and not getattr(self.pipeline, 'fused', hasattr(self.pipeline, 'batch')):
            return [self[key] for key in keys]
        full_keys = SampleKey.all_of(keys)
        index = torch.from_numpy(np.array([key.index for key in full_keys]))
        images = self.images.index_select(0, index)  # several times as fast as images[index]
        pipeline: Any = self.pipeline
        if pipeline is None:
            inputs: Any = images
        else:
            make = pipeline.defer if getattr(pipeline, 'deferred', False) else pipeline.batch
            inputs = make(images, full_keys)
        batch = dict(inputs=inputs, index=index)
        return batch if self.labels is None else batch | {'label': self.labels[index]}


@DATASETS.register_module()
class Digits(ArrayDataset):
    """The 8x8 handwritten digits inside scikit-learn: 1,257 to train, 540 to test, grey, by different writers.

    The file is ordered by writer; each writer begins with the digits 0 to 9, three times. So its first 70 % and last
    30 % have one writer in common, with 100 and 30 images; harder, and more honest, than a random split.

    To choose hyper-parameters without a look at the test images, train on 'fit' and evaluate on 'val', a part of the
    training images by writers of whom neither 'fit' nor 'test' has an image.

    Args:
        split: 'train' (1,257 images), 'test' (540), 'fit' (776, of the first six writers of 'train') or 'val' (381, of
            the next three).
        size: Side in pixels; bicubic upsampling, clamped to [0, 255]. 8 leaves the images as they are.
        pipeline: As for :class:`BaseDataset`.
    """

    splits = {'train': slice(1257), 'test': slice(1257, None), 'fit': slice(776), 'val': slice(776, 1157)}
    image_size = 16  # unless ``size`` says otherwise

    def __init__(self, split: str = 'train', size: int = 16, pipeline: dict[str, Any] | Pipeline | None = None) -> None:
        from sklearn.datasets import load_digits  # takes a second, and the other data sets do not need it

        data = load_digits()
        rows = self.splits[known_split(split, self.splits)]
        images = torch.from_numpy(data.images[rows]).float()[:, None] / 16
        if size != images.shape[-1]:
            images = F.interpolate(images, size=(size, size), mode='bicubic', align_corners=False).clamp(0, 1)
        super().__init__(images * 255, data.target[rows], pipeline)


def known_split(split: str, splits: Collection[str]) -> str:
    """Return ``split``.

    Raises:
        ValueError: If it is none of ``splits``.
    """
    if split not in splits:
        *others, last = map(repr, splits)
        raise ValueError(f'dataset.split is {split!r}; expected {", ".join(others)} or {last}.')
    return split


def is_train(split: str) -> bool:
    """Whether a split is 'train'.

    Raises:
        ValueError: If it is neither 'train' nor 'test'.
    """
    return known_split(split, ('train', 'test')) == 'train'
