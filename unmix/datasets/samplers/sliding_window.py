"""Windows that slide over the images."""

from collections.abc import Sized

import numpy as np

from unmix.datasets.samplers.keys import KeySampler
from unmix.registry import DATA_SAMPLERS
from unmix.utils.rng import generator
from unmix.utils.sizes import Misfit, Sizes

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
