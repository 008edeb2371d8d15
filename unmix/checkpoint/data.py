"""Fingerprint of the training data, which shows at a resumption that they have changed."""

import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import ConcatDataset
from torch.utils.data import Subset as TorchSubset

from unmix.datasets import BaseDataset, Subset
from unmix.datasets.decode import EXHAUSTED, BrokenImage
from unmix.datasets.evidence import file_evidence
from unmix.models.algorithms.base import BaseAlgorithm
from unmix.utils.dist import agreed, unwrap

KEY = 'data'  # entry of a checkpoint
SAMPLE = 4096  # images whose content is compared; all if there are no more
_THREADS = 16


class DataRecord(Hook):
    """Keeps a fingerprint of the training data in checkpoints, and compares it with the data at a resumption.

    If they differ, a warning names the first difference. If the head has a state for each image (``num_instances``),
    the resumption is refused, since the state would be that of other images. :class:`TrainLoop` owns this hook.
    """

    priority = 'LOWEST'

    def __init__(self) -> None:
        self._then: dict[str, Any] | None = None
        self._now: dict[str, Any] | None = None  # on rank 0

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Remember the fingerprint if the run is resumed."""
        if runner._resume:
            self._then = checkpoint.get(KEY)  # old versions have none

    def before_train(self, runner: Runner) -> None:
        """Compare the data with those of the checkpoint.

        Raises:
            ValueError: If they differ, and the head has a state for each image.
        """
        with agreed():
            if not is_main_process():
                return
            dataset = runner.train_dataloader.dataset
            self._now = fingerprint(dataset)
            change = None if self._then is None else difference(self._then, self._now, dataset)
            if change is None:
                return
            model = unwrap(runner.model)
            if isinstance(model, BaseAlgorithm) and model.head.num_instances is not None:
                raise ValueError(
                    f'The training data set is not that of the run whose checkpoint is to be resumed: {change}. '
                    f'{type(model.head).__name__} has a state for each image, which would now belong to other images. '
                    'Restore these files, or start a new run: without --resume, in another --work-dir'
                )
            runner.logger.warning(
                f'The training data set has changed since this checkpoint was written: {change}. Training goes on with '
                'the images as they are now; it will differ from an uninterrupted run.'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the fingerprint."""
        if self._now is not None:
            checkpoint[KEY] = self._now


class Items:
    """The images of a data set, seen through wrappers: Subset, MixtureDataset, MMEngine's and PyTorch's wrappers.

    A data set that repeats images counts each once.

    Attributes:
        leaves: The data sets that hold the images.
        leaf: (N,) position in ``leaves`` of the data set of each image.
        row: (N,) number of each image in its data set.
    """

    leaf: np.ndarray
    row: np.ndarray

    def __init__(self, dataset: Any) -> None:
        self.leaves: list[Any] = [dataset]
        rows = None
        if isinstance(dataset, ConcatDataset):
            parts = [Items(part) for part in dataset.datasets]
            starts = np.cumsum([0] + [len(part.leaves) for part in parts])
            self.leaves = [leaf for part in parts for leaf in part.leaves]
            self.leaf = np.concatenate([part.leaf + start for part, start in zip(parts, starts, strict=False)])
            self.row = np.concatenate([part.row for part in parts])
            return
        if isinstance(dataset, Subset | TorchSubset):
            rows = np.asarray(dataset.rows if isinstance(dataset, Subset) else dataset.indices, dtype=np.int64)
        if 'dataset' in vars(dataset):
            inner = Items(dataset.dataset)
            self.leaves, self.leaf, self.row = inner.leaves, inner.leaf, inner.row
        else:
            self.row = np.arange(len(dataset))
            self.leaf = np.zeros_like(self.row)
        if rows is not None:
            self.leaf, self.row = self.leaf[rows], self.row[rows]

    def __len__(self) -> int:
        return len(self.row)

    def name(self, index: int) -> str:
        """Return the name of an image and its label, as far as the data set says."""
        return _named(self.leaves[self.leaf[index]], [int(self.row[index])])[0]

    def names(self) -> np.ndarray:
        """Return the CRC-32 of the name and label of each image, (N,) uint32."""
        codes = np.empty(len(self), dtype=np.uint32)
        for number, leaf in enumerate(self.leaves):
            own = np.flatnonzero(self.leaf == number)
            codes[own] = [
                zlib.crc32(name.encode(errors='surrogateescape')) for name in _named(leaf, self.row[own].tolist())
            ]
        return codes

    def content(self, index: int) -> bytes:
        """Return bytes that change with the image; empty if they are not known, or the image cannot be read.

        Raises:
            OSError: If the process has no memory or file left, which says nothing of the image.
        """
        leaf, row = self.leaves[self.leaf[index]], int(self.row[index])
        try:
            if isinstance(leaf, BaseDataset):
                return leaf.content(row)
            if callable(info := getattr(leaf, 'get_data_info', None)):  # MMEngine's data sets
                return _of_mmengine(info(row), getattr(leaf, 'data_root', None))
        except (BrokenImage, OSError) as error:  # the training says so when it comes to the image
            if isinstance(error, OSError) and error.errno in EXHAUSTED:
                raise
        return b''


def _of_mmengine(info: Mapping[str, Any], data_root: str | None) -> bytes:
    path = str(info.get('img_path', ''))
    known = f'{path.removeprefix(data_root or "")} {info.get("gt_label")}'.encode(errors='surrogateescape')
    return known + (file_evidence(Path(path)) if path else b'')


def fingerprint(dataset: Any) -> dict[str, Any]:
    """Return what tells a data set from another one.

    Returns:
        ``number`` N of items; ``names``, (M,) int32, the CRC-32 of the name and label of each of its M images;
        ``contents``, (S,) int64, a hash of the content of a sample of the images, which N and M alone decide. All that
        cannot be read, wherever they are, have the same one, so one that is repaired later is a change.
    """
    items = Items(dataset)
    names = items.names()
    with ThreadPoolExecutor(_THREADS) as pool:
        hashes = list(pool.map(lambda index: _hash(items.content(index)), sample(len(items))))
    return dict(
        number=len(dataset),
        names=torch.from_numpy(names.view(np.int32)),
        contents=torch.tensor(hashes, dtype=torch.int64),
    )


def sample(count: int) -> list[int]:
    """Return the numbers of the images whose content is compared, in rising order."""
    chosen = np.random.default_rng(0).permutation(count)[:SAMPLE]
    return [int(index) for index in np.sort(chosen)]


def difference(then: Mapping[str, Any], now: Mapping[str, Any], dataset: Any) -> str | None:
    """Return the first difference between two fingerprints in words, or None; ``dataset`` is that of ``now``."""
    items, words = Items(dataset), []
    if then['number'] != now['number']:
        words.append(f'it had {then["number"]} images and has {now["number"]} now')
    count = min(len(then['names']), len(now['names']))
    other = (then['names'][:count].cpu() != now['names'][:count]).nonzero().flatten().tolist()
    if other:
        words.append(f'{len(other)} of {count} images have another name or label, first image {other[0]}, which is now '
                     f'{items.name(other[0])}')  # fmt: skip
    elif len(then['names']) == len(now['names']) and len(then['contents']) == len(now['contents']):
        places = sample(len(items))
        other = (then['contents'].cpu() != now['contents']).nonzero().flatten().tolist()
        if other:
            of = 'images' if len(places) == len(items) else f'sampled images of {len(items)}'
            first = places[other[0]]
            name = f', {items.name(first)}' if items.name(first) else ''
            words.append(f'{len(other)} of {len(places)} {of} have another content, first image {first}{name}')
    return '; '.join(words) or None


def _named(leaf: Any, rows: Sequence[int]) -> list[str]:
    names = [leaf.name(row) for row in rows] if isinstance(leaf, BaseDataset) else [''] * len(rows)
    labels = getattr(leaf, 'labels', None)
    if labels is None:
        return names
    return [
        f'{name} (label {label})'.strip() for name, label in zip(names, np.asarray(labels)[rows].tolist(), strict=True)
    ]


def _hash(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest(), 'little', signed=True)
