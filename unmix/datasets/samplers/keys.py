"""What a sampler asks a data set for, and what every sampler is."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence, Sized
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from mmengine.dist import get_dist_info, sync_random_seed
from torch.utils.data import Sampler

from unmix.utils.rng import stream
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
