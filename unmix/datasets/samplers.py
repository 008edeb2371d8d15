"""The order of the images of an epoch, registry ``DATA_SAMPLERS``, and the key that seeds their augmentations."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence, Sized
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from unmix.registry import DATA_SAMPLERS
from unmix.utils.rng import generator
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


_RUN = attrgetter('seed', 'epoch')


def one_run(keys: Sequence[SampleKey]) -> tuple[int, int]:
    """Return the seed and epoch of all keys of a batch.

    Raises:
        ValueError: If there is more than one.
    """
    runs = {*map(_RUN, keys)}
    if len(runs) != 1:
        raise ValueError(f'A batch is of one seed and one epoch, not of {sorted(runs)}: check the sampler.')
    return runs.pop()


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

    def misfits(self, sizes: Sizes) -> list[Misfit]:
        """Return what does not fit these sizes of a training; checked before it. Default: nothing."""
        return []

    def suitable(self, sizes: Sizes) -> dict[str, int]:
        """Return options, by their full keys, with which there are no :meth:`misfits`. Default: none."""
        return {}

    @abstractmethod
    def indices(self) -> np.ndarray:
        """Return the images (num_samples,) of this rank in the current epoch, in order."""

    def __iter__(self) -> Iterator[SampleKey]:
        return (SampleKey(index, self.epoch, self.seed) for index in self.indices()[self.start :].tolist())

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
        size = len(dataset)
        per_rank = -(-size // self.world_size) if round_up else len(range(self.rank, size, self.world_size))
        self.num_samples = per_rank
        self.total_size = per_rank * self.world_size if round_up else size

    def indices(self) -> np.ndarray:
        """Return every world_size-th image of the epoch's order; with ``round_up`` it begins again at its end."""
        size = len(self.dataset)
        if self.part:
            own = np.arange(self.rank, size, self.world_size)
            order = generator('order', self.seed, self.rank, self.epoch).permutation(own) if self.shuffle else own
            return np.resize(order, self.num_samples)
        order = generator('order', self.seed, self.epoch).permutation(size) if self.shuffle else np.arange(size)
        return np.resize(order, self.total_size)[self.rank :: self.world_size]  # np.resize repeats


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

    def indices(self) -> np.ndarray:
        """Return the images of the window of this epoch, in an order of its own.

        Raises:
            ValueError: If the window is longer than the data set.
        """
        if self.window > self.share:
            raise ValueError(
                f'sampler.window is {self.window} for each of {self.world_size} processes, of which each has only '
                f'{self.share} images.'
            )
        window = self.positions(self.epoch)[self.permutation('window', self.epoch, self.window)]
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
