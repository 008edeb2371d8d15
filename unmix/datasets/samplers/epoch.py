"""Epochs in which each image, or each of a part, comes once."""

from collections.abc import Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

from unmix.datasets.lists import read_numbers, span
from unmix.datasets.samplers.keys import KeySampler
from unmix.registry import DATA_SAMPLERS
from unmix.utils.rng import generator


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
                f'sampler.indices: {len(found)} numbers{span(found)}; expected integers from 0 to {size - 1}, since '
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
