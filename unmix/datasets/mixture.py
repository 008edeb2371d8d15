"""Mixtures in the data set, before any batch is made."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from unmix.datasets.samplers import SampleKey
from unmix.mixing import Mixing
from unmix.registry import DATASETS, MIXINGS
from unmix.utils.rng import generator, stream


@DATASETS.register_module()
class MixtureDataset(Dataset):
    """Mix images of a data set with other images of it; their index and label stay, and no loss knows of it.

    The 2020 form of Un-Mix (version 1 of `its paper <https://arxiv.org/abs/2003.05438>`_, "Rethinking Image Mixture"):
    ``num_mix`` times, with probability ``prob``, an image is mixed with one drawn from the whole data set, itself
    included, in a share that is Beta distributed. All views are mixed alike with the partner's. Three forms:
    ``global`` is ``mixing=dict(type='Mixup')``, ``region`` is ``mixing=dict(type='CutMix')``, and ``IM`` is region
    around global, one such data set around the other, so that partners have been through the inner one.

    Images leave as floats in units of 0 to 255; the release mixes normalised ones, which is the same but for ``decay``.

    Args:
        dataset: The data set, or its config.
        mixing: Config of the mixture, registry ``MIXINGS``.
        num_mix: Number of attempts.
        prob: Probability of each.
        decay: Factor of an image's difference from ``mean`` before it is mixed the first time, if the first attempt is
            made; 1 for none.
        mean: Mean of each channel, or one for all, in units of 0 to 255: that of ``data_preprocessor``.

    Raises:
        ValueError: If ``prob`` is outside of [0, 1], or the views of an image have different sizes.
    """

    def __init__(
        self,
        dataset: dict[str, Any] | Dataset,
        mixing: dict[str, Any],
        num_mix: int = 2,
        prob: float = 0.1,
        decay: float = 1.0,
        mean: float | list[float] = 0.0,
    ) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'MixtureDataset.prob is {prob}; a probability lies in [0, 1].')
        self.dataset: Any = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.mixing: Mixing = MIXINGS.build(mixing)
        self.num_mix, self.prob, self.decay = num_mix, prob, decay
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.depth = getattr(self.dataset, 'depth', 0) + 1

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        """Labels, classes and the like are those of the data set."""
        if name == 'dataset':
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitems__(self, keys: list[int | SampleKey]) -> list[dict[str, Any]]:
        return [self[key] for key in keys]

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        key = SampleKey.of(key)
        item = self.dataset[key]
        views = _views(item)
        rng = self.generator(key)
        for attempt in range(self.num_mix):
            if rng.random() > self.prob:
                continue
            seed = stream('partner', self.depth, key.seed, key.index, attempt)  # augmented anew, not as in its own turn
            partners = _views(self.dataset[SampleKey(int(rng.integers(len(self))), key.epoch, seed)])
            height, width = views[0].shape[-2:]
            params = self.mixing.draw(rng, (height, width))
            if attempt == 0 and self.decay != 1:
                views = [self.mean + self.decay * (view - self.mean) for view in views]
            views = [self.mixing.apply(view, other, params)[0] for view, other in zip(views, partners, strict=True)]
        return item | dict(inputs=views if isinstance(item['inputs'], list) else views[0])

    def generator(self, key: SampleKey) -> np.random.Generator:
        """Return the random numbers for an image: a function of (seed, epoch, index)."""
        return generator('image mixture', self.depth, *key)


def _views(item: dict[str, Any]) -> list[Tensor]:
    """Return the views of an item as floats."""
    views = item['inputs'] if isinstance(item['inputs'], list) else [item['inputs']]
    sizes = {tuple(view.shape[-2:]) for view in views}
    if len(sizes) > 1:
        raise ValueError(f'MixtureDataset mixes all views alike, but an image has views of the sizes {sorted(sizes)}.')
    return [view if view.is_floating_point() else view.float() for view in views]
