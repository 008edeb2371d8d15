"""Data sets around a data set: a part of it, and mixtures of its images."""

import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from unmix.datasets.broken import GIVE_UP, BatchDataset, batch_of
from unmix.datasets.decode import BrokenImage
from unmix.datasets.lists import read_list
from unmix.datasets.samplers import SampleKey
from unmix.mixing import Mixing
from unmix.registry import DATASETS, MIXINGS
from unmix.utils.names import few, path_bytes, shown
from unmix.utils.rng import generator, stream


class Wrapper(BatchDataset):
    """A data set, or its config, with other items; labels, classes and the like are those of the data set."""

    def __init__(self, dataset: dict[str, Any] | Dataset[Any]) -> None:
        self.dataset: Any = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.broken = getattr(self.dataset, 'broken', 'error')

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset':
            raise AttributeError(name)
        return getattr(self.dataset, name)


@DATASETS.register_module()
class Subset(Wrapper):
    """Some images of a data set, counted anew from 0; everything else is the data set's.

    Either those of a list of file names, as SimCLR published them for 1 % and 10 % of ImageNet (``1percent.txt``,
    ``10percent.txt``; `its repository <https://github.com/google-research/simclr>`_, ``imagenet_subsets``), or a number
    or share of each class, or a number of all images, drawn by the seed alone.

    Args:
        dataset: The data set, or its config.
        files: List with the path of an image in each line, relative to ``data_root``, or with its name alone, if no
            other image has it (:func:`~unmix.datasets.lists.read_list`). Images of a table may have the same path;
            these cannot be listed.
        per_class: Images of each class, all there are where a class has fewer.
        share: Share of the images of each class, rounded up.
        num_images: Images of all, with or without labels; all there are if the data set has fewer.
        rest: Leave those out, and take all others: ``share=0.1`` is held out from ``share=0.1, rest=True``.
        seed: Which images are drawn.
        backend_args: Where ``files`` is if it is not on this machine: as for :class:`EncodedDataset`.

    Attributes:
        rows: (N,) int64, numbers of the images in the data set, rising.

    Raises:
        FileNotFoundError: If there is no list, or images of the list are not in the data set.
        ValueError: Unless one of files, per_class, share and num_images is given, and fits; if a name or path in the
            list is that of several images; if images of each class are to be drawn of a data set without labels; or if
            no image is left.
    """

    def __init__(
        self,
        dataset: dict[str, Any] | Dataset[Any],
        files: str | Path | None = None,
        per_class: int | None = None,
        share: float | None = None,
        num_images: int | None = None,
        rest: bool = False,
        seed: int = 0,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(dataset)
        given = [value for value in (files, per_class, share, num_images) if value is not None]
        numbers = [number for number in (per_class, num_images) if number is not None]
        if len(given) != 1 or min(numbers, default=1) < 1 or (share is not None and not 0 < share <= 1):
            raise ValueError(
                f'Subset: files={files}, per_class={per_class}, share={share}, num_images={num_images}; give one of '
                'them, at least one image, or a share in (0, 1].'
            )
        if (per_class, share) != (None, None) and self.dataset.labels is None:
            raise ValueError('Subset: the data set has no labels, so it has no classes to draw from.')
        if files is not None:
            self.rows = self._listed(files, backend_args)
        elif num_images is not None:
            order = generator('subset', seed).permutation(len(self.dataset))
            self.rows = torch.from_numpy(np.sort(order[:num_images]))
        else:
            self.rows = self._drawn(per_class, share, seed)
        if rest:
            self.rows = torch.from_numpy(np.setdiff1d(np.arange(len(self.dataset)), self.rows.numpy()))
        if not len(self.rows):
            raise ValueError('Subset: no image is left of the data set; draw fewer.')
        self.labels: Tensor | None = None if self.dataset.labels is None else self.dataset.labels[self.rows]
        if hasattr(self.dataset, 'paths'):
            self.paths: np.ndarray = np.asarray(self.dataset.paths)[self.rows.numpy()]

    def _listed(self, files: str | Path, backend_args: dict[str, Any] | None) -> Tensor:
        if not hasattr(self.dataset, 'paths'):
            raise ValueError(f'Subset: files={files}, but a {type(self.dataset).__name__} is not made of files.')
        paths: list[bytes] = np.asarray(self.dataset.paths).tolist()
        rows = {path: row for row, path in enumerate(paths)}
        bare = {os.path.basename(path): row for row, path in enumerate(paths)}
        root = path_bytes(getattr(self.dataset, 'data_root', '.'))
        found = read_list(files, 'dataset.files', root, lambda name: rows.get(name, bare.get(name)), backend_args)
        missing = sorted(name for name, row in found.items() if row is None)
        if missing:
            raise FileNotFoundError(
                f'dataset.files: {len(missing)} of the {len(found)} images of {shown(files)} are not in the data set: '
                f'{few(missing)}. A line is the path of an image below data_root, such as {shown(paths[0])}.'
            )
        self._refuse_ambiguous(files, paths, found.keys())
        return torch.tensor(sorted({row for row in found.values() if row is not None}))

    def _refuse_ambiguous(self, files: str | Path, paths: Sequence[bytes], names: Collection[bytes]) -> None:
        known = {*paths}
        places: dict[bytes, list[int]] = {name: [] for name in names}
        for row, path in enumerate(paths):
            for name in {path, os.path.basename(path)}:
                if name in places and (name == path or name not in known):
                    places[name].append(row)
        several = [name for name, found in sorted(places.items()) if len(found) > 1]
        if not several:
            return
        rows = places[several[0]]
        what = f'dataset.files: {len(several)} names in {shown(files)} are those of several images: {few(several)}; '
        if len({paths[row] for row in rows}) < len(rows):
            raise ValueError(
                f'{what}the first of the images with the numbers {", ".join(map(str, rows[:10]))}'
                f'{", ..." if len(rows) > 10 else ""}. Choose them by their numbers, with '
                "sampler=dict(type='SubsetSampler', indices=...), or give each image of the table a name of its own."
            )
        raise ValueError(
            f'{what}the first of {few([paths[row] for row in rows])}. Write the path of the image below data_root in '
            'each line.'
        )

    def _drawn(self, per_class: int | None, share: float | None, seed: int) -> Tensor:
        labels, rng = self.dataset.labels.numpy(), generator('subset', seed)
        rows: list[np.ndarray] = []
        for c in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == c))
            rows.append(members[: per_class or int(np.ceil(len(members) * (share or 0)))])
        return torch.from_numpy(np.sort(np.concatenate(rows)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        key = SampleKey.of(key)
        inner = key._replace(index=int(self.rows[key.index]))  # so that an image is augmented as in the whole data set
        item: dict[str, Any] = self.dataset[inner]
        return item | dict(index=key.index)

    def batch(self, keys: Sequence[int | SampleKey]) -> dict[str, Any] | list[dict[str, Any]]:
        """Return the batch of these keys."""
        rows = SampleKey.all_of(keys)
        batch = batch_of(self.dataset, [key._replace(index=int(self.rows[key.index])) for key in rows])
        if isinstance(batch, dict):
            return batch | dict(index=torch.tensor([key.index for key in rows]))
        return [item | dict(index=key.index) for item, key in zip(batch, rows, strict=True)]


@DATASETS.register_module()
class FirstImages(Wrapper):
    """The first images of a data set: what ``num_batch_per_epoch`` of a dataloader leaves, as in MMEngine.

    Args:
        dataset: The data set, or its config.
        num_images: Their number.

    Raises:
        ValueError: If the data set has fewer, or is a stream.
    """

    def __init__(self, dataset: dict[str, Any] | Dataset[Any], num_images: int) -> None:
        super().__init__(dataset)
        if isinstance(self.dataset, IterableDataset):
            raise ValueError(
                'dataloader.num_batch_per_epoch is for data sets whose images have numbers, and '
                f'{type(self.dataset).__name__} is an IterableDataset: let its __len__ be the samples of an epoch.'
            )
        if not 0 < num_images <= len(self.dataset):
            raise ValueError(
                f'dataloader.num_batch_per_epoch asks for {num_images} images (batches times batch_size times '
                f'processes); the data set has {len(self.dataset)}, and a positive number up to that is expected.'
            )
        self.num_images = num_images
        labels = getattr(self.dataset, 'labels', None)
        self.labels = None if labels is None else labels[:num_images]
        if hasattr(self.dataset, 'paths'):
            self.paths: np.ndarray = np.asarray(self.dataset.paths)[:num_images]

    def __len__(self) -> int:
        return self.num_images

    def batch(self, keys: Sequence[int | SampleKey]) -> Any:
        """Return the batch of these keys."""
        return batch_of(self.dataset, keys)

    def __getitem__(self, key: Any) -> Any:
        return self.dataset[key]


@DATASETS.register_module()
class MixtureDataset(Wrapper):
    """Mix images of a data set with other images of it; their index and label stay, and no loss knows of it.

    The 2020 form of Un-Mix (version 1 of `its paper <https://arxiv.org/abs/2003.05438>`_, "Rethinking Image Mixture"):
    ``num_mix`` times, with probability ``prob``, an image is mixed with one drawn from the whole data set, itself
    included, in a share that is Beta distributed. All views are mixed alike with the partner's. Three forms:
    ``global`` is ``mixing=dict(type='Mixup')``, ``region`` is ``mixing=dict(type='CutMix')``, and ``IM`` is region
    around global, one such data set around the other, so that partners have been through the inner one.

    With ``broken='skip'`` a partner that cannot be read is replaced by the next image of the data set by its number,
    and a warning names it; so the mixture is still a function of (seed, epoch, index) and of the files.

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
        dataset: dict[str, Any] | Dataset[Any],
        mixing: dict[str, Any],
        num_mix: int = 2,
        prob: float = 0.1,
        decay: float = 1.0,
        mean: float | list[float] = 0.0,
    ) -> None:
        if not 0 <= prob <= 1:
            raise ValueError(f'MixtureDataset.prob is {prob}; a probability lies in [0, 1].')
        super().__init__(dataset)
        self.mixing: Mixing = MIXINGS.build(mixing)
        self.num_mix, self.prob, self.decay = num_mix, prob, decay
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.depth = getattr(self.dataset, 'depth', 0) + 1
        # whether a partner was named, which data workers and this process share
        self._named = torch.zeros(len(self) if self.broken == 'skip' else 0, dtype=torch.bool).share_memory_()

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        key = SampleKey.of(key)
        item: dict[str, Any] = self.dataset[key]
        views = _views(item)
        rng = self.generator(key)
        for attempt in range(self.num_mix):
            if rng.random() > self.prob:
                continue
            seed = stream('partner', self.depth, key.seed, key.index, attempt)  # augmented anew, not as in its own turn
            partners = _views(self._partner(SampleKey(int(rng.integers(len(self))), key.epoch, seed)))
            height, width = views[0].shape[-2:]
            params = self.mixing.draw(rng, (height, width))
            if attempt == 0 and self.decay != 1:
                views = [self.mean + self.decay * (view - self.mean) for view in views]
            views = [self.mixing.apply(view, other, params)[0] for view, other in zip(views, partners, strict=True)]
        return item | dict(inputs=views if isinstance(item['inputs'], list) else views[0])

    def _partner(self, drawn: SampleKey) -> dict[str, Any]:
        """Return the item that was drawn, or with 'skip' the next one that can be read.

        Raises:
            BrokenImage: If it cannot be read; with 'skip', if as many in a row cannot.
        """
        others = min(GIVE_UP, len(self)) - 1 if self.broken == 'skip' else 0
        item: dict[str, Any]
        for _ in range(others):
            try:
                item = self.dataset[drawn]
                return item
            except BrokenImage as error:
                if not self._named[drawn.index]:
                    self._named[drawn.index] = True
                    print_log(f'{error} The next one becomes the partner in a mixture.', 'current', logging.WARNING)
            drawn = drawn._replace(index=(drawn.index + 1) % len(self))
        item = self.dataset[drawn]
        return item

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
