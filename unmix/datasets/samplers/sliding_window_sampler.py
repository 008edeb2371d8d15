"""Windows that slide over a random order of the images, so that an image comes often for a while and then rests."""

from collections.abc import Sized

import numpy as np

from unmix.datasets.samplers.epoch_sampler import KeySampler
from unmix.registry import DATA_SAMPLERS
from unmix.utils.rng import generator

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
        if not 0 < self.window <= self.share:
            raise ValueError(
                f'sampler.window is {window}, {self.window} for each of {self.world_size} processes, of which each has '
                f'{self.share} images: it must be positive and not longer than the data set.'
            )
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

    def indices(self) -> np.ndarray:
        """Return the images of the window of this epoch, in an order of its own."""
        window = self.positions(self.epoch)[self.permutation('window', self.epoch, self.window)]
        return self.rank + self.world_size * window

    def positions(self, epoch: int) -> np.ndarray:
        """Return the images of a window, as numbers in this rank's share, in the order of the pass."""
        begin = epoch * self.stride
        if self.reshuffle == 'pass':
            first, offset = divmod(begin, self.share)
            orders = [self.permutation('order', number, self.share) for number in (first, first + 1)]
            return np.concatenate(orders)[offset : offset + self.window]
        number = self.num_reshuffles(epoch) if self.reshuffle == 'wrap' else 0
        order = self.permutation('order', number, self.share)
        return order[(begin + np.arange(self.window)) % self.modulus]

    def num_reshuffles(self, epoch: int) -> int:
        """Return how many of the windows up to ``epoch`` reach over the end of the order (with ``'wrap'``)."""
        begins = np.arange(epoch + 1) * self.stride % self.modulus
        return int((begins + self.window > self.modulus).sum())

    def permutation(self, purpose: str, number: int, size: int) -> np.ndarray:
        """Return the order of pass ``number``, or of window ``number``."""
        return generator(purpose, self.seed, self.rank, number).permutation(size)
