"""Sizes of a training, and those of its parts that do not fit them."""

from typing import NamedTuple

SMALL = 8  # images to which a batch is reduced where a quarter of the data set is less


class Sizes(NamedTuple):
    """The sizes of a training that those of a head or sampler must fit.

    Attributes:
        images: Images of the training set.
        batch: Images of a batch, of all processes.
        seen: Images of an epoch, in whole batches.
        iterations: Of the whole training.
        dim: Feature dimension D, or None if it is not known.
    """

    images: int
    batch: int
    seen: int
    iterations: int
    dim: int | None = None


class Misfit(NamedTuple):
    """A size of the config that does not fit a training.

    Attributes:
        reason: A sentence with the key, what it is and what it should be.
        fatal: Whether a training with it is impossible.
    """

    reason: str
    fatal: bool = False
