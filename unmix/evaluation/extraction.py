"""Features of whole data sets, from one process or many."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dist import all_gather, all_reduce, gather, get_rank, get_world_size
from torch import Tensor
from torch.nn import functional as F

from unmix.utils.labels import check_labels

Batch = dict[str, Any]
Encoder = Callable[[Batch], Tensor]
_RAW_SIZE = 32


class Features(NamedTuple):
    """Features of one data set.

    Attributes:
        features: (N, D), floating.
        labels: (N,) integers.
    """

    features: Tensor
    labels: Tensor


@torch.no_grad()
def collect_features(batches: Iterable[Batch], encoders: Mapping[str, Encoder]) -> dict[str, Features] | None:
    """Run encoders over a data set, once through the data, and order the rows by ``index``.

    An image that a sampler repeated, to give all processes equally many, is kept once.

    Args:
        batches: Dicts with ``inputs``, ``index`` (N,) and, if labelled, ``label`` (N,).
        encoders: From such a batch to features (N, ...), which are flattened.

    Returns:
        By encoder, the features of the whole data set on rank 0, and an empty dict on other ranks. None on all ranks if
        the data have no labels; then only the first batch is read.

    Raises:
        ValueError: If there is no batch, a batch has no ``index``, labels are no integers from 0, or features are NaN.
    """
    columns: dict[str, list[Tensor]] = {name: [] for name in ('index', 'label', *encoders)}
    for batch in batches:
        if batch.get('label') is None:
            return None
        if batch.get('index') is None:
            raise ValueError("An evaluation data set delivers no 'index'; each item needs its own, counted from 0.")
        check_labels(batch['label'], None, 'The data set of an evaluation')
        for name, encoder in encoders.items():
            features = encoder(batch).flatten(1)
            columns[name].append(features.float() if features.itemsize < 4 else features)
            device = features.device
        for name in ('index', 'label'):
            columns[name].append(torch.as_tensor(batch[name]).to(device))
    if not columns['index']:
        raise ValueError('An evaluation data set is empty: its dataloader delivers no batch.')
    own = {name: torch.cat(column) for name, column in columns.items()}
    _check_finite({name: own[name] for name in encoders})
    rows = {name: _gather(column) for name, column in own.items()}
    if get_rank() != 0:
        return {}
    _, first = np.unique(rows['index'].cpu().numpy(), return_index=True)
    order = torch.from_numpy(first).to(rows['index'].device)
    return {name: Features(rows[name][order], rows['label'][order]) for name in encoders}


def raw_pixels(batch: Batch) -> Tensor:
    """Return the pixels (N, C * H * W) of a batch in [0, 1]; images larger than 32 pixels are averaged down to that."""
    images = torch.as_tensor(batch['inputs']).float() / 255
    height, width = (min(length, _RAW_SIZE) for length in images.shape[-2:])
    return F.adaptive_avg_pool2d(images, (height, width)).flatten(1)


def _check_finite(features: Mapping[str, Tensor]) -> None:
    """Raise on all ranks if features (N, D) of one of them are NaN or infinite."""
    counts = torch.stack([(~rows.isfinite().all(1)).sum() for rows in features.values()])
    all_reduce(counts)
    for name, count in zip(features, counts.tolist(), strict=True):
        if count:
            raise ValueError(
                f'Features of {count} images of an evaluation are NaN or infinite (encoder: {name or "the model"}), so '
                'accuracies would mean nothing. The weights have diverged: take an earlier checkpoint as load_from, '
                'and train on with a lower optim_wrapper.optimizer.lr. Or the images themselves hold NaN.'
            )


def _gather(rows: Tensor) -> Tensor:
    """Concatenate (N_rank, ...) of all ranks on rank 0; other ranks get their own rows. N may differ between ranks."""
    if get_world_size() == 1:
        return rows
    counts: list[Any] = [int(n) for n in all_gather(torch.tensor([len(rows)], device=rows.device))]
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = gather(padded, dst=0)
    if get_rank() != 0:
        return rows
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
