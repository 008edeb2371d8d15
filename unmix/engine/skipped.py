"""Images that a data set with ``broken='skip'`` did not give, by name."""

import logging
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmengine.runner import BaseLoop

from unmix.checkpoint.data import Items
from unmix.datasets import BaseDataset, BrokenImage
from unmix.evaluation.shard import Shard
from unmix.utils.names import few

INFO = 'skipped'  # in the message hub, and in results.json


def skips(dataset: Any) -> bool:
    """Return whether a data set gives others in the place of images that cannot be read."""
    return getattr(dataset, 'broken', 'error') == 'skip'


def name_of(dataset: Any, index: int) -> str:
    """Return the name of an image, seen through wrappers; its number if it has no name."""
    items = Items(dataset)
    leaf, row = items.leaves[items.leaf[index]], int(items.row[index])
    return (leaf.name(row) if isinstance(leaf, BaseDataset) else '') or f'image {index}'


def described(dataset: Any, index: int) -> str:
    """Return why an image cannot be read, as one sentence or more."""
    try:
        dataset[index]
    except BrokenImage as error:
        return str(error)
    return f'The image {name_of(dataset, index)} could not be read, and can be read now.'


class LeftOut:
    """Names the images that an evaluation was not given, and warns of them once.

    Args:
        dataset: The data set.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._warned = False

    def names(self, key: str, features: Shard) -> dict[str, int]:
        """Return the images left out, each with a 1; warn of them.

        Args:
            key: Of the loader in the config, for the warning.
            features: Of the images that were given.
        """
        if not skips(self.dataset) or features.images is None:
            return {}
        missing = np.setdiff1d(np.arange(len(self.dataset)), features.images.numpy()).tolist()
        names = [name_of(self.dataset, index) for index in missing]
        if names and not self._warned and is_main_process():
            self._warned = True
            print_log(
                f'{key}: {len(names)} of {len(self.dataset)} images cannot be read and are left out of the evaluation: '
                f'{few(names)}. "unmix doctor CONFIG" lists all.',
                'current',
                logging.WARNING,
            )
        return dict.fromkeys(names, 1)


def refuse_skipping(loop: BaseLoop, stage: str) -> None:
    """Check that a loop of MMEngine does not evaluate a data set that skips: it would count images twice.

    Raises:
        ValueError: If it does.
    """
    if skips(loop.dataloader.dataset):
        raise ValueError(
            f"{stage}_dataloader.dataset.broken='skip' would count other images twice in the place of those that "
            f"cannot be read, so the accuracy would be wrong. Set {stage}_dataloader.dataset.broken='error', and "
            'delete the images that "unmix doctor CONFIG" lists, or write an archive or a table again without them.'
        )
