"""Who is mixed with whom: the samples of a batch in pairs. Shapes: N samples, M mixtures, ... any further ones."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from unmix.utils.rng import to_device


class Partners:
    """Each sample is mixed with the one at its place in the reversed batch, so each pair twice: M = N.

    Mixture n holds sample n and sample ``pi(n)``. It meets targets twice: in order, target n with the share of sample
    n, and then the target of the partner. The second time the mixtures are put in another order rather than the
    targets, because what a head has prepared of the targets serves both.

    Attributes:
        whole: Whether each sample is the first one of a mixture, M = N.
    """

    whole = True

    def first(self, x: Tensor) -> Tensor:
        """Return the rows (M, ...) of the samples that the mixtures are named after, of (N, ...)."""
        return x

    def second(self, x: Tensor) -> Tensor:
        """Return the rows (M, ...) of their partners, of (N, ...)."""
        return x.flip(0)

    def met(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the mixtures meet in order, and what they meet after :meth:`turn`: (M, ...) of (N, ...)."""
        return x, x

    def turn(self, mixtures: Tensor) -> Tensor:
        """Put what belongs to the mixtures (M, ...) in the order in which they meet the targets of their partners."""
        return mixtures.flip(0)

    def back(self, turned: Tensor) -> Tensor:
        """Undo :meth:`turn`."""
        return turned.flip(0)


class OncePartners(Partners):
    """As :class:`Partners`, but only the first M = ceil(N / 2) mixtures, so each unordered pair once.

    The mixtures keep their order, and meet the first M targets, then those of their partners. With N odd the last one
    is of the middle sample with itself.
    """

    whole = False

    def first(self, x: Tensor) -> Tensor:
        """Return the first half; see :meth:`Partners.first`."""
        return x[: _half(x)]

    def second(self, x: Tensor) -> Tensor:
        """Return the second half in reverse order; see :meth:`Partners.second`."""
        return x.flip(0)[: _half(x)]

    def met(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return both halves; see :meth:`Partners.met`."""
        return self.first(x), self.second(x)

    def turn(self, mixtures: Tensor) -> Tensor:
        """Return the mixtures; see :meth:`Partners.turn`."""
        return mixtures

    def back(self, turned: Tensor) -> Tensor:
        """Return the mixtures; see :meth:`Partners.back`."""
        return turned


class RandomPartners(Partners):
    """The partners are a permutation of the batch, uniform over all; a sample may be its own partner. M = N.

    Args:
        rng: Returns the random numbers of the step; the permutation is the first draw from them.
    """

    def __init__(self, rng: Callable[[], np.random.Generator]) -> None:
        self.rng = rng
        self._orders: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def orders(self, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the permutation ``pi`` (N,) and its inverse."""
        if (number, device) not in self._orders:
            order = self.rng().permutation(number)
            both = to_device(np.stack([order, np.argsort(order)]), device)
            self._orders[number, device] = both[0], both[1]
        return self._orders[number, device]

    def second(self, x: Tensor) -> Tensor:
        """Return the permuted rows; see :meth:`Partners.second`."""
        return x.index_select(0, self.orders(len(x), x.device)[0])

    def turn(self, mixtures: Tensor) -> Tensor:
        """Return the rows in the inverse order; see :meth:`Partners.turn`."""
        return mixtures.index_select(0, self.orders(len(mixtures), mixtures.device)[1])

    def back(self, turned: Tensor) -> Tensor:
        """Return the permuted rows; see :meth:`Partners.back`."""
        return self.second(turned)


def _half(x: Tensor) -> int:
    return (len(x) + 1) // 2


REVERSE = Partners()
