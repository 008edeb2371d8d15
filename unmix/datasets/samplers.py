"""The order of the images of an epoch, registry ``DATA_SAMPLERS``, and the key that seeds their augmentations."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence, Sized
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from unmix.datasets.lists import read_numbers
from unmix.registry import DATA_SAMPLERS
from unmix.utils.rng import generator, stream
from unmix.utils.sizes import Misfit, Sizes


class SampleKey(NamedTuple):
    """What a sampler asks a data set for. It tells all that an augmentation depends on, in whatever worker it runs.

    Attributes:
        index: Number of the image in the data set.
        epoch: Epoch, from 0.
        seed: Seed of the run.
    """

    index: int  # type: ignore[assignment]  # it hides tuple.index
    epoch: int = 0
    seed: int = 0

    @classmethod
    def of(cls, key: 'int | SampleKey') -> 'SampleKey':
        """Return a key as it is, and a plain index as a key of epoch 0 and seed 0."""
        return key if isinstance(key, SampleKey) else cls(int(key))

    @classmethod
    def all_of(cls, keys: 'Sequence[int | SampleKey]') -> 'Sequence[SampleKey]':
        """Return :meth:`of` each key."""
        return keys if {*map(type, keys)} == {cls} else [cls.of(key) for key in keys]  # type: ignore[return-value]


COPY = 2**64  # copy n of an image in an epoch has the seed of the run plus n times this, so views of its own
_RUN = attrgetter('seed', 'epoch')


def streams(keys: Sequence[SampleKey]) -> Callable[..., int | np.ndarray]:
    """Return the function ``(purpose, *what) -> stream(purpose, seed, epoch, *what)`` for the keys of a batch.

    It returns one number for all; with copies of images (``COPY``) one for each, (N,) uint64.

    Raises:
        ValueError: If the keys are of more than one seed, copies aside, or of more than one epoch.
    """
    runs = {*map(_RUN, keys)}
    if len({(seed % COPY, epoch) for seed, epoch in runs}) != 1:
        raise ValueError(f'A batch is of one seed and one epoch, not of {sorted(runs)}: check the sampler.')

    def of(purpose: str, *what: int | str) -> int | np.ndarray:
        found = {run: stream(purpose, *run, *what) for run in runs}
        return found.popitem()[1] if len(found) == 1 else np.array([found[_RUN(key)] for key in keys], np.uint64)

    return of


class KeySampler(Sampler[SampleKey]):
    """Yield a :class:`SampleKey` for each of the :meth:`indices` of an epoch, from any of them on.

    Args:
        dataset: The data set.
        seed: The same on all ranks; None: one that the ranks agree on.

    Attributes:
        num_samples: Images of a whole epoch on this rank; a subclass sets it.
    """

    num_samples: int

    def __init__(self, dataset: Sized, seed: int | None) -> None:
        self.rank, self.world_size = get_dist_info()
        self.dataset = dataset
        self.seed = sync_random_seed() if seed is None else seed
        self.epoch = 0
        self.start = 0
        if callable(follow := getattr(dataset, 'follow', None)):  # BatchDataset
            follow(self)

    def misfits(self, sizes: Sizes) -> list[Misfit]:
        """Return what does not fit these sizes of a training; checked before it. Default: nothing."""
        return []

    def suitable(self, sizes: Sizes) -> dict[str, int]:
        """Return options, by their full keys, with which there are no :meth:`misfits`. Default: none."""
        return {}

    @abstractmethod
    def order(self, epoch: int) -> np.ndarray:
        """Return the images (num_samples,) of this rank in an epoch, in order: a function of (seed, epoch, rank)."""

    def copies(self, epoch: int) -> np.ndarray | None:
        """Return how often each image of :meth:`order` has come before in the epoch, on all ranks; None: never."""
        return None

    def __iter__(self) -> Iterator[SampleKey]:
        indices = self.order(self.epoch)[self.start :].tolist()
        copies = self.copies(self.epoch)
        if copies is None:
            return (SampleKey(index, self.epoch, self.seed) for index in indices)
        seeds = (self.seed + COPY * copy for copy in copies[self.start :].tolist())
        return (SampleKey(index, self.epoch, seed) for index, seed in zip(indices, seeds, strict=True))

    def __len__(self) -> int:
        """Return the images of a whole epoch on this rank, wherever this one starts."""
        return self.num_samples

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch, at its first image."""
        self.epoch = epoch
        self.start = 0

    def set_start(self, num_samples: int) -> None:
        """Leave out the first ``num_samples`` images of this rank in the current epoch, and in no later one.

        Raises:
            ValueError: If an epoch has fewer.
        """
        if not 0 <= num_samples <= self.num_samples:
            raise ValueError(
                f'An epoch has {self.num_samples} images on this process, so it cannot be resumed after {num_samples}. '
                'Resume with the data set, sampler, batch size and number of processes of the checkpoint.'
            )
        self.start = num_samples


@DATA_SAMPLERS.register_module()
class EpochSampler(KeySampler):
    """Yield a :class:`SampleKey` for each image of this rank's share, in an order that is a function of (seed, epoch).

    The shares are those of MMEngine's ``DefaultSampler``: rank r takes every world_size-th image of the order, from the
    r-th on.

    Args:
        dataset: The data set.
        shuffle: Whether each epoch has its own order; without, the order is that of the data set.
        seed: The same on all ranks; None: one that the ranks agree on.
        round_up: Whether the first images come again at the end, so that all ranks have as many.
        part: In every epoch rank r takes the images r, r + world_size, ..., each rank in an order of its own: those
            that its machine has in memory with ``cache='part'`` of the data set. A batch of all ranks is then no random
            part of all images, as in the released code of PIC with ``--zip``.
    """

    def __init__(
        self,
        dataset: Sized,
        shuffle: bool = True,
        seed: int | None = None,
        round_up: bool = True,
        part: bool = False,
    ) -> None:
        super().__init__(dataset, seed)
        self.shuffle, self.part = shuffle, part
        self._divide(len(dataset), round_up)

    def _divide(self, size: int, round_up: bool = True) -> None:
        """Divide an epoch of ``size`` images among the ranks."""
        per_rank = -(-size // self.world_size) if round_up else len(range(self.rank, size, self.world_size))
        self.num_samples = per_rank
        self.total_size = per_rank * self.world_size if round_up else size

    def whole(self, epoch: int) -> np.ndarray:
        """Return the images of an epoch, of all ranks, in order."""
        size = len(self.dataset)
        return generator('order', self.seed, epoch).permutation(size) if self.shuffle else np.arange(size)

    def order(self, epoch: int) -> np.ndarray:
        """Return every world_size-th image of the epoch's order; with ``round_up`` it begins again at its end."""
        if self.part:
            own = np.arange(self.rank, len(self.dataset), self.world_size)
            order = generator('order', self.seed, self.rank, epoch).permutation(own) if self.shuffle else own
            return np.resize(order, self.num_samples)
        return np.resize(self.whole(epoch), self.total_size)[self.rank :: self.world_size]  # np.resize repeats


@DATA_SAMPLERS.register_module()
class SubsetSampler(EpochSampler):
    """Yield some images of the data set only; they keep their numbers, unlike those of the data set ``Subset``.

    Args:
        dataset: The data set.
        indices: Numbers of the images, or a file of them: ``.npy``, or text with a number in each line.
        shuffle: Whether each epoch has its own order; without, it is that of ``indices``.
        seed: As for :class:`EpochSampler`.
        round_up: As for :class:`EpochSampler`.
        backend_args: Where the file is if it is not on this machine: :class:`unmix.datasets.storage.Storage`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If ``indices`` are empty, no integers, not in the data set, or some come twice.
    """

    def __init__(
        self,
        dataset: Sized,
        indices: Sequence[int] | np.ndarray | str | Path,
        shuffle: bool = True,
        seed: int | None = None,
        round_up: bool = True,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(dataset, shuffle, seed)
        found, size = read_numbers(indices, 'sampler.indices', backend_args), len(dataset)
        if (found % 1 != 0).any() or found.min() < 0 or found.max() >= size:
            raise ValueError(
                f'sampler.indices: {len(found)} numbers{_range(found)}; expected integers from 0 to {size - 1}, since '
                f'the data set has {size} images.'
            )
        self.rows = found.astype(np.int64)
        if len(np.unique(self.rows)) < len(self.rows):
            values, counts = np.unique(self.rows, return_counts=True)
            twice = values[counts > 1][:4].tolist()
            raise ValueError(f'sampler.indices names some images twice: {twice}. Name each once.')
        self._divide(len(self.rows), round_up)

    def whole(self, epoch: int) -> np.ndarray:
        """Return the images of an epoch, of all ranks, in order."""
        return generator('order', self.seed, epoch).permutation(self.rows) if self.shuffle else self.rows


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
                f'sampler.weights: {len(found)} numbers{_range(found)}; expected {size}, one from 0 for each image, '
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
                f'{len(self.labels)} labels{_range(self.labels)}; expected one from 0 for each image.'
            )
        super().__init__(dataset, 1 / np.bincount(self.labels)[self.labels], num_samples, seed)

    def blocks(self, order: np.ndarray) -> np.ndarray:
        """Return the images class by class."""
        return order[np.argsort(self.labels[order], kind='stable')]


def _range(values: np.ndarray) -> str:
    return f' from {values.min():g} to {values.max():g}' if len(values) else ''


RESHUFFLES = ('pass', 'wrap', 'never')


@DATA_SAMPLERS.register_module()
class SlidingWindowSampler(KeySampler):
    """Yield in epoch e a window of the images, in random order (`PIC <https://arxiv.org/abs/2006.14618>`_, Sec. 3.3).

    An epoch is a window. With the images of this rank (every world_size-th) in random orders one after the other, the
    window of epoch e starts at position ``e * stride`` and is ``window`` long, so an image comes in about
    ``window / stride`` windows in a row, once in each. The orders are functions of (seed, rank), the window's order of
    (seed, rank, epoch), so a run can be resumed at any image.

    Args:
        dataset: The data set.
        window: Images in a window, of all ranks.
        stride: By how many images it slides, of all ranks.
        reshuffle: ``'pass'``: each pass over the images has a new order; a window may reach into the next. ``'wrap'``:
            a window that would reach over the end is preceded by a new order, and windows wrap around, as in the
            released code with ``--shuffle-per-epoch``. ``'never'``: they wrap around in the one order.
        compat: ``'released'``: wrap around at the length of a window instead of that of the order, as the released
            code does, whose windows therefore do not slide. To reproduce it; needs ``'wrap'`` or ``'never'``.
        seed: The same on all ranks; None: one that the ranks agree on.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        dataset: Sized,
        window: int = 131072,
        stride: int = 16384,
        reshuffle: str = 'pass',
        compat: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(dataset, seed)
        self.share = len(dataset) // self.world_size  # the same on all ranks
        self.window, self.stride = window // self.world_size, stride // self.world_size
        if self.window < 1:
            raise ValueError(f'sampler.window is {window}; it is at least 1 for each of {self.world_size} processes.')
        if not 0 < self.stride <= self.window:
            raise ValueError(f'sampler.stride is {stride}; it lies between 1 (a process) and sampler.window={window}.')
        if reshuffle not in RESHUFFLES:
            raise ValueError(f'sampler.reshuffle is {reshuffle!r}; it is one of {RESHUFFLES}.')
        if compat not in (None, 'released') or (compat == 'released' and reshuffle == 'pass'):
            raise ValueError(
                f"sampler.compat is {compat!r} with reshuffle={reshuffle!r}; it is None, or 'released' with reshuffle "
                "'wrap' or 'never'."
            )
        self.reshuffle = reshuffle
        self.modulus = self.window if compat == 'released' else self.share
        self.num_samples = self.window

    def misfits(self, sizes: Sizes) -> list[Misfit]:
        """Return a window that is longer than the data set."""
        if self.window <= self.share:
            return []
        reason = f'train_dataloader.sampler.window is {self.window * self.world_size}, but the training data set has'
        return [Misfit(f'{reason} only {sizes.images} images', fatal=True)]

    def suitable(self, sizes: Sizes) -> dict[str, int]:
        """Return half of the data set as the window, and an eighth of it as the stride, as published."""
        if self.window <= self.share:
            return {}
        window = max(self.share // 2 * self.world_size, sizes.batch)
        stride = max(window // self.world_size // 8, 1) * self.world_size
        return {'train_dataloader.sampler.window': window, 'train_dataloader.sampler.stride': stride}

    def order(self, epoch: int) -> np.ndarray:
        """Return the images of the window of an epoch, in an order of its own.

        Raises:
            ValueError: If the window is longer than the data set.
        """
        if self.window > self.share:
            raise ValueError(
                f'sampler.window is {self.window} for each of {self.world_size} processes, of which each has only '
                f'{self.share} images.'
            )
        window = self.positions(epoch)[self.permutation('window', epoch, self.window)]
        return np.asarray(self.rank + self.world_size * window)

    def positions(self, epoch: int) -> np.ndarray:
        """Return the images of a window, as numbers in this rank's share, in the order of the pass."""
        begin = epoch * self.stride
        if self.reshuffle == 'pass':
            first, offset = divmod(begin, self.share)
            orders = [self.permutation('order', number, self.share) for number in (first, first + 1)]
            return np.concatenate(orders)[offset : offset + self.window]
        number = self.num_reshuffles(epoch) if self.reshuffle == 'wrap' else 0
        order = self.permutation('order', number, self.share)
        return np.asarray(order[(begin + np.arange(self.window)) % self.modulus])

    def num_reshuffles(self, epoch: int) -> int:
        """Return how many of the windows up to ``epoch`` reach over the end of the order (with ``'wrap'``)."""
        begins = np.arange(epoch + 1) * self.stride % self.modulus
        return int((begins + self.window > self.modulus).sum())

    def permutation(self, purpose: str, number: int, size: int) -> np.ndarray:
        """Return the order of pass ``number``, or of window ``number``."""
        return generator(purpose, self.seed, self.rank, number).permutation(size)
