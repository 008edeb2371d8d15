"""Sizes of a training, and those of its parts that do not fit them."""

from typing import NamedTuple

SMALL = 8  # images to which a batch is reduced where a quarter of the data set is less
LEAST_STEPS = 1000  # steps that a training needs to learn from few images; a warning comes below half of them
TRIAL = 10  # a training of fewer epochs is a trial, of which nobody expects features


class Sizes(NamedTuple):
    """The sizes of a training that those of a head or sampler must fit.

    Attributes:
        images: Images of the training set.
        batch: Images of a batch, of all processes.
        seen: Images of an epoch, in whole batches.
        iterations: Of the whole training.
        dim: Feature dimension D, or None if it is not known.
        share: A queue, or the negatives of an image, are at most 1 / share of the images: 1 is what serves a purpose,
            and 4 what is chosen where there is a choice.
    """

    images: int
    batch: int
    seen: int
    iterations: int
    dim: int | None = None
    share: int = 1

    @property
    def most(self) -> int:
        """Return how long a queue, or how many the negatives of an image, may be."""
        return self.images // self.share


class Misfit(NamedTuple):
    """A size of the config that does not fit a training.

    Attributes:
        reason: A sentence with the key, what it is and what it should be.
        fatal: Whether a training with it is impossible.
    """

    reason: str
    fatal: bool = False


def batch_sizes(images: int, processes: int, most: int) -> list[int]:
    """Return the batch sizes of a process, powers of 2, that divide few images into steps, the largest first.

    The batches of all processes are at most a quarter of the images together, or ``SMALL`` if that is more.
    """
    least = max(images // 4, min(SMALL, images))
    return [2**k for k in range(20, -1, -1) if 2**k <= most and 2**k * processes <= least]


def epochs_for(steps: int, epochs: int) -> int:
    """Return the epochs, of ``steps`` steps each, in which a training has ``LEAST_STEPS``; at least ``epochs``."""
    return max(epochs, -(-LEAST_STEPS // max(steps, 1)))
