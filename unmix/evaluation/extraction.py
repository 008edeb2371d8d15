"""Features of whole data sets, from one process or many."""

from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import all_gather, all_gather_object, all_reduce, get_rank, get_world_size
from torch import Tensor
from torch.nn import functional as F

from unmix.evaluation.shard import Features, Shard
from unmix.utils.labels import check_labels

Batch = dict[str, Any]
Encoder = Callable[[Batch], Tensor]
_RAW_SIZE = 32
_COLUMNS = 2**26  # numbers that are moved at once where rows are put in order

__all__ = ['Batch', 'Encoder', 'Features', 'Shard', 'collect_features', 'raw_pixels']


@torch.no_grad()
def collect_features(batches: Iterable[Batch], encoders: Mapping[str, Encoder]) -> dict[str, Shard] | None:
    """Run encoders over a data set, once through the data, and order the rows by ``index``.

    Each rank keeps the rows of the images that it reads, in memory of the host: each number once, and nothing of the
    data set's size beside it. A loader's sampler says how many images those are. An image that a sampler repeated, to
    give all processes equally many, is kept once.

    Args:
        batches: Dicts with ``inputs``, ``index`` (N,) and, if labelled, ``label`` (N,). Ranks may read unequally many.
        encoders: From such a batch to features (N, ...), which are flattened.

    Returns:
        By encoder, the rows of this rank. None on all ranks if the data have no labels; then only the first batch is
        read.

    Raises:
        ValueError: On all ranks, if there is no batch, a batch of one of them has no ``index``, labels are no integers
            from 0, or features are NaN.
    """
    own = _Rows(_number_of_images(batches))
    error: ValueError | None = None
    try:
        own.read(batches, encoders)
    except ValueError as reason:  # other ranks would wait for this one
        error = reason
    states = all_gather_object(_State(error, own.labelled, own.forms()))
    for state in states:
        if state.error is not None:
            raise error or state.error
    if any(state.labelled is False for state in states):
        return None
    forms = next((state.forms for state in states if state.forms), None)
    if forms is None:
        raise ValueError('An evaluation data set is empty: its dataloader delivers no batch.')
    columns = {name: own.columns.get(name, form)[: own.number] for name, form in forms.items()}
    _check_finite({name: own.infinite.get(name, torch.tensor(0)) for name in encoders})
    rows, order, labels, images = _first_of_each(columns['index'], columns['label'])
    spread = get_world_size() > 1
    return {name: Shard(_ordered(columns[name], order), rows, labels, spread, images) for name in encoders}


def raw_pixels(batch: Batch) -> Tensor:
    """Return the pixels (N, C * H * W) of a batch in [0, 1]; images larger than 32 pixels are averaged down to that."""
    images = torch.as_tensor(batch['inputs']).float() / 255
    height, width = (min(length, _RAW_SIZE) for length in images.shape[-2:])
    return F.adaptive_avg_pool2d(images, (height, width)).flatten(1)


class _State(NamedTuple):
    """What ranks tell each other after they have read their images."""

    error: ValueError | None
    labelled: bool | None  # None without a batch
    forms: dict[str, Tensor]  # by column, no rows; they tell width and type


class _Rows:
    """Columns that grow by batches, in memory of the host.

    Attributes:
        columns: By name, (capacity, ...); the first ``number`` rows are in use.
        infinite: By encoder, the number of images with a feature that is NaN or infinite, on the encoder's device.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.number = capacity, 0
        self.columns: dict[str, Tensor] = {}
        self.infinite: dict[str, Tensor] = {}
        self.labelled: bool | None = None

    def read(self, batches: Iterable[Batch], encoders: Mapping[str, Encoder]) -> None:
        """Read all batches; without labels none but the first."""
        for batch in batches:
            self.labelled = batch.get('label') is not None
            if not self.labelled:
                return
            if batch.get('index') is None:
                raise ValueError("An evaluation data set delivers no 'index'; each item needs its own, counted from 0.")
            check_labels(batch['label'], None, 'The data set of an evaluation')
            rows = {name: torch.as_tensor(batch[name]).long() for name in ('index', 'label')}
            for name, encoder in encoders.items():
                rows[name] = features = encoder(batch).flatten(1)
                infinite = (~features.isfinite().all(1)).sum()
                self.infinite[name] = self.infinite[name] + infinite if name in self.infinite else infinite
            self._append(rows)

    def forms(self) -> dict[str, Tensor]:
        """Return an empty tensor of the width and type of each column."""
        return {name: column.new_empty(0, *column.shape[1:]) for name, column in self.columns.items()}

    def _append(self, rows: Mapping[str, Tensor]) -> None:
        end = self.number + len(rows['index'])
        if not self.columns or end > self.capacity:
            self.capacity = max(end, 2 * self.capacity if self.columns else self.capacity)
            old, self.columns = self.columns, {}
            for name, values in rows.items():
                dtype = torch.float32 if values.itemsize < 4 else values.dtype
                self.columns[name] = torch.empty(self.capacity, *values.shape[1:], dtype=dtype)
                if name in old:
                    self.columns[name][: self.number] = old.pop(name)[: self.number]
        for name, values in rows.items():
            self.columns[name][self.number : end] = values
        self.number = end


def _number_of_images(batches: Any) -> int:
    """Return how many images a loader reads on this rank; 0 where it does not say."""
    sampler = getattr(getattr(batches, 'batch_sampler', None), 'sampler', None)
    return len(sampler) if isinstance(sampler, Sized) else 0


def _check_finite(counts: Mapping[str, Tensor]) -> None:
    """Raise on all ranks if features of one of them are NaN or infinite."""
    found = torch.stack([count.cpu() for count in counts.values()])
    all_reduce(found)
    for name, count in zip(counts, found.tolist(), strict=True):
        if count:
            raise ValueError(
                f'Features of {count} images of an evaluation are NaN or infinite (encoder: {name or "the model"}), so '
                'accuracies would mean nothing. The weights have diverged: take an earlier checkpoint as load_from, '
                'and train on with a lower optim_wrapper.optimizer.lr. Or the images themselves hold NaN.'
            )


def _first_of_each(index: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Order images by index, each once: of several equal ones that of the first rank, and of its first place there.

    Args:
        index: (n,) of the images of this rank.
        labels: Likewise.

    Returns:
        Which images of all this rank has (m,), where they are among its rows (m,), and the labels (N,) and indices (N,)
        of all.
    """
    counts = [int(count) for count in all_gather(torch.tensor([len(index)]))]
    pairs = torch.zeros(max(counts), 2, dtype=torch.long)
    pairs[: len(index), 0], pairs[: len(index), 1] = index, labels
    every = torch.cat([part[:count] for part, count in zip(all_gather(pairs), counts, strict=True)])
    images, first = np.unique(every[:, 0].numpy(), return_index=True)
    place = torch.from_numpy(first)
    begin = sum(counts[: get_rank()])
    rows = ((place >= begin) & (place < begin + len(index))).nonzero()[:, 0]
    return rows, place[rows] - begin, every[place, 1], torch.from_numpy(images)


def _ordered(features: Tensor, order: Tensor) -> Tensor:
    """Return ``features[order]`` in the memory of ``features`` (N, D), some columns at a time."""
    if not torch.equal(order, torch.arange(len(order))):
        for columns in torch.split(features, max(1, _COLUMNS // max(1, len(order))), dim=1):
            columns[: len(order)] = columns[order]
    return features[: len(order)]
