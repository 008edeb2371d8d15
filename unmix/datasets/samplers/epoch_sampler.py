"""The order of the images, and with it the seed of their augmentations."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence, Sized
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from unmix.registry import DATA_SAMPLERS
from unmix.utils.rng import generator


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

    The shares are those of MMEngine's ``DefaultSampler``: rank r takes every world_size-th image, from the r-th on.

    Args:
        dataset: The data set.
        shuffle: Whether each epoch has its own order; without, the order is that of the data set.
        seed: The same on all ranks; None: one that the ranks agree on.
        round_up: Whether the first images come again at the end, so that all ranks have as many.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int | None = None, round_up: bool = True) -> None:
        super().__init__(dataset, seed)
        self.shuffle = shuffle
        size = len(dataset)
        per_rank = -(-size // self.world_size) if round_up else len(range(self.rank, size, self.world_size))
        self.num_samples = per_rank
        self.total_size = per_rank * self.world_size if round_up else size

    def indices(self) -> np.ndarray:
        """Return every world_size-th image of the epoch's order; with ``round_up`` it begins again at its end."""
        size = len(self.dataset)
        order = generator('order', self.seed, self.epoch).permutation(size) if self.shuffle else np.arange(size)
        return np.resize(order, self.total_size)[self.rank :: self.world_size]  # np.resize repeats
