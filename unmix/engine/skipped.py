"""Images that a data set with ``broken='skip'`` did not give, by name."""

import logging
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, is_main_process
from mmengine.logging import print_log
from mmengine.runner import BaseLoop
from torch import Tensor

from unmix.checkpoint.data import Items
from unmix.datasets import BaseDataset, BrokenImage
from unmix.evaluation.extraction import Encoder
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
    """Notes which images of an evaluation were given, and names those that were not.

    Args:
        dataset: The data set.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self._given: list[Tensor] = []
        self._warned = False

    def watch(self, encoder: Encoder) -> Encoder:
        """Return an encoder that notes the images of each batch."""
        self._given.clear()

        def encode(batch: dict[str, Any]) -> Tensor:
            if skips(self.dataset) and batch.get('index') is not None:
                self._given.append(torch.as_tensor(batch['index']).cpu())
            return encoder(batch)

        return encode

    def names(self, key: str) -> dict[str, int]:
        """Return the images left out, each with a 1, on all ranks; warn of them.

        Args:
            key: Of the loader in the config, for the warning.
        """
        if not skips(self.dataset):
            return {}
        own = torch.cat([*self._given, torch.empty(0, dtype=torch.long)]).numpy()  # a rank may have no batch
        given = np.concatenate(all_gather_object(np.unique(own)))
        if not len(given):  # no features were computed
            return {}
        missing = np.setdiff1d(np.arange(len(self.dataset)), given).tolist()
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
            'delete the images that "unmix doctor CONFIG" lists.'
        )
