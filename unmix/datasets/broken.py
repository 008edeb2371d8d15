"""What becomes of images that cannot be read, registry key ``dataset.broken``."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from unmix.datasets.decode import BrokenImage
from unmix.datasets.samplers import COPY, SampleKey

POLICIES = ('error', 'skip')
GIVE_UP = 100  # images in a row: then the disk or server is broken, not the images


class BatchDataset(Dataset[dict[str, Any]]):
    """A data set that gives whole batches, and by ``broken='skip'`` others in the place of images that cannot be read.

    With 'skip' a batch of B images is made of the first B that can be read: those that the sampler asks for, then those
    that follow the last of them in the sampler's order of the epoch, which begins again at its end. So it is a function
    of (seed, epoch, rank, place in the order) and of the files, on any number of workers. No image comes twice in a
    batch; one that takes a place comes once more in its own, unless the epoch leaves it out at its end (``drop_last``).
    If the whole order has fewer than B such images, the batch is smaller. ``dataset[index]`` gives no other image.

    Attributes:
        broken: 'error', or 'skip'.
    """

    broken: str = 'error'
    _sampler: Any = None

    def follow(self, sampler: Any) -> None:
        """Take the order of this sampler, which calls this when it is made; without one it is that of the data set."""
        self._sampler = sampler

    def batch(self, keys: Sequence[int | SampleKey]) -> dict[str, Any] | list[dict[str, Any]]:
        """Return the batch of these keys, or a list of items.

        Raises:
            BrokenImage: If an image cannot be read.
        """
        return [self[key] for key in keys]

    def __getitems__(self, keys: Sequence[int | SampleKey]) -> dict[str, Any] | list[dict[str, Any]]:
        """Return a batch, or a list of items, by the policy of ``broken``.

        Raises:
            BrokenImage: If an image cannot be read; with 'skip', if there is none to take its place.
        """
        try:
            return self.batch(keys)
        except BrokenImage:
            if self.broken != 'skip':
                raise
        return list(islice(self._readable(SampleKey.all_of(keys)), len(keys)))

    def _readable(self, keys: Sequence[SampleKey]) -> Iterator[dict[str, Any]]:
        failed: list[BrokenImage] = []
        found = False
        for key in chain(keys, self._following(keys)):
            try:
                item = self[key]
            except BrokenImage as error:
                failed.append(error)
                if len(failed) == GIVE_UP:
                    break
                continue
            failed.clear()
            found = True
            yield item
        if len(failed) == GIVE_UP or not found:
            raise BrokenImage(
                f"dataset.broken='skip' finds no image in the place of those that cannot be read: the last "
                f'{len(failed)} in the order of the epoch cannot be read either. Is their disk or server there? '
                f'{failed[0].__cause__}'
            )

    def _following(self, keys: Sequence[SampleKey]) -> Iterator[SampleKey]:
        last, present = keys[-1], {key.index for key in keys}
        order = np.arange(len(self)) if self._sampler is None else self._sampler.order(last.epoch)  # type: ignore[arg-type]
        place = np.flatnonzero(order == last.index)[-1:]
        for index in np.roll(order, -1 - int(place.sum())).tolist():
            if index not in present:
                present.add(index)
                yield SampleKey(index, last.epoch, last.seed % COPY)


def batch_of(dataset: Any, keys: Sequence[int | SampleKey]) -> Any:
    """Return the batch of a data set, of any kind, without the policy of ``broken``: that is for the outermost one."""
    if isinstance(dataset, BatchDataset):
        return dataset.batch(keys)
    return dataset.__getitems__(keys) if hasattr(dataset, '__getitems__') else [dataset[key] for key in keys]
