"""Samplers of epochs in which an image may come several times, or not at all."""

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from unmix.datasets.lists import read_numbers, span
from unmix.datasets.samplers.epoch import EpochSampler
from unmix.registry import DATA_SAMPLERS
from unmix.utils.rng import generator


class CopyingSampler(EpochSampler):
    """An epoch in which an image may come several times, each time with views of its own.

    Args:
        dataset: The data set.
        num_samples: Images of an epoch, of all ranks, copies included; rounded up to a multiple of the ranks. None: the
            size of the data set.
        seed: As for :class:`EpochSampler`.

    Raises:
        ValueError: If there are to be fewer than one.
    """

    def __init__(self, dataset: Sized, num_samples: int | None = None, seed: int | None = None) -> None:
        super().__init__(dataset, seed=seed)
        number = len(dataset) if num_samples is None else num_samples
        if number < 1:
            raise ValueError(
                f'sampler.num_samples is {num_samples}; expected 1 or more, or None for the data set once.'
            )
        self._divide(number)

    def copies(self, epoch: int) -> np.ndarray:
        """Return how often each image of :meth:`order` has come before in the epoch, on all ranks."""
        order = np.resize(self.whole(epoch), self.total_size)
        by_image = np.argsort(order, kind='stable')
        first = np.flatnonzero(np.diff(order[by_image], prepend=-1))
        before = np.empty_like(order)
        before[by_image] = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
        return before[self.rank :: self.world_size]


@DATA_SAMPLERS.register_module()
class RepeatedSampler(CopyingSampler):
    """Repeated augmentation: ``num_repeats`` copies of an image, with views of their own, follow each other.

    An epoch is as long as without, so it has only every ``num_repeats``-th image. Copies of an image go to different
    ranks, or else into one batch (`Hoffer et al. 2020 <https://arxiv.org/abs/1901.09335>`_; `Berman et al. 2019
    <https://arxiv.org/abs/1902.05509>`_, Sec. 3.2). For classifiers: under a contrastive loss copies in a batch are
    negatives of each other. The release of `DeiT <https://arxiv.org/abs/2012.12877>`_ cuts an epoch to a multiple of
    256 images; this one does not.

    Args:
        dataset: The data set.
        num_repeats: Copies of an image.
        num_samples: Images of an epoch, of all ranks, copies included. None: the size of the data set.
        seed: As for :class:`EpochSampler`.

    Raises:
        ValueError: If an argument is below 1, or an epoch has more images than there are copies.
    """

    def __init__(
        self, dataset: Sized, num_repeats: int = 3, num_samples: int | None = None, seed: int | None = None
    ) -> None:
        super().__init__(dataset, num_samples, seed)
        if num_repeats < 1 or self.total_size > num_repeats * len(dataset) + self.world_size - 1:
            raise ValueError(
                f'sampler.num_repeats is {num_repeats}, sampler.num_samples {num_samples}; expected at least 1 copy, '
                f'and no more samples than copies of the {len(dataset)} images.'
            )
        self.num_repeats = num_repeats

    def whole(self, epoch: int) -> np.ndarray:
        """Return the images of an epoch, of all ranks, in order."""
        return np.repeat(super().whole(epoch), self.num_repeats)[: self.total_size]


@DATA_SAMPLERS.register_module()
class WeightedSampler(CopyingSampler):
    """Yield images in proportion to their weights, as evenly as whole numbers allow.

    An epoch of n images has image i, of weight w_i, ``n w_i / sum(w)`` times, rounded up or down (systematic sampling,
    Madow 1949), in random order. So no image comes twice whose share of the epoch is at most one image. Draws with
    replacement, as of PyTorch's ``WeightedRandomSampler``, have the same mean and a larger variance.

    Args:
        dataset: The data set.
        weights: A number from 0 for each image, or a file of them: ``.npy``, or text with a number in each line.
        num_samples: Images of an epoch, of all ranks, copies included. None: the size of the data set.
        seed: As for :class:`EpochSampler`.
        backend_args: As for :class:`SubsetSampler`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there are not as many weights as images, one is negative, NaN or infinite, or all are zero.
    """

    def __init__(
        self,
        dataset: Sized,
        weights: Sequence[float] | np.ndarray | str | Path,
        num_samples: int | None = None,
        seed: int | None = None,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(dataset, num_samples, seed)
        self.weights = read_numbers(weights, 'sampler.weights', backend_args).astype(np.float64)
        found, size = self.weights, len(dataset)
        if len(found) != size or not np.isfinite(found).all() or found.min() < 0 or found.max() == 0:
            raise ValueError(
                f'sampler.weights: {len(found)} numbers{span(found)}; expected {size}, one from 0 for each image, '
                'and not all 0.'
            )

    def blocks(self, order: np.ndarray) -> np.ndarray:
        """Return the images in the order in which they are counted off; here the random one."""
        return order

    def whole(self, epoch: int) -> np.ndarray:
        """Return the images of an epoch, of all ranks, in order."""
        rng = generator('weighted order', self.seed, epoch)
        order = self.blocks(rng.permutation(len(self.weights)))
        shares = np.cumsum(self.weights[order])
        ends = np.floor(shares * (self.total_size / shares[-1]) + rng.random()).astype(np.int64)
        ends[-1] = self.total_size
        return rng.permutation(np.repeat(order, np.diff(ends, prepend=0)))


@DATA_SAMPLERS.register_module()
class ClassBalancedSampler(WeightedSampler):
    """Yield each class equally often, within one image, and each image of a class equally often, within one copy.

    With ``num_samples`` up to the number of classes times the smallest class, no image comes twice in an epoch.

    Args:
        dataset: The data set, with ``labels`` (N,).
        num_samples: As for :class:`WeightedSampler`.
        seed: As for :class:`EpochSampler`.

    Raises:
        ValueError: If the data set has no labels, or not one from 0 for each image.
    """

    def __init__(self, dataset: Sized, num_samples: int | None = None, seed: int | None = None) -> None:
        labels = getattr(dataset, 'labels', None)
        if labels is None:
            raise ValueError(
                'sampler.type is ClassBalancedSampler, but the data set has no labels. Let dataset.data_root have a '
                'sub-folder for each class, or take another sampler.'
            )
        self.labels = np.asarray(labels)
        if len(self.labels) != len(dataset) or self.labels.min() < 0:
            raise ValueError(
                f'sampler.type is ClassBalancedSampler, but the data set has {len(dataset)} images and '
                f'{len(self.labels)} labels{span(self.labels)}; expected one from 0 for each image.'
            )
        super().__init__(dataset, 1 / np.bincount(self.labels)[self.labels], num_samples, seed)

    def blocks(self, order: np.ndarray) -> np.ndarray:
        """Return the images class by class."""
        return order[np.argsort(self.labels[order], kind='stable')]
