"""Nearest neighbours and embedding of a run, from features that its evaluation has computed."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unmix.checkpoint.data import Items
from unmix.datasets import BaseDataset
from unmix.datasets.transforms import to_pil
from unmix.evaluation.shard import Shard
from unmix.utils.names import shown
from unmix.visualization.embedding import LEAST, METHODS, components, has_umap, place
from unmix.visualization.neighbours import Neighbourhood, draw_neighbours, nearest_with_similarity

QUERIES, NEIGHBOURS = 8, 8
IMAGES, CLASSES = 500, 10  # of an embedding
_BANK = 2**15  # images that neighbours are looked for among
_SECONDS = 0.005  # that t-SNE takes an image, on a slow core
_SHARE = 0.01  # of the time of a run that t-SNE may take


@dataclass(frozen=True)
class Seen:
    """A bounded part of what an evaluation has computed.

    Attributes:
        features: (N, D) of some images of the test set, N at most 500, on the host.
        labels: (N,) of them, or None.
        queries: (Q,) rows of the test set.
        near: (Q, K) rows of the bank.
        test: Data set of the queries.
        bank: Data set of the neighbours.
        searched: Number of images of the bank that were compared.
    """

    features: Tensor
    labels: Tensor | None
    queries: list[int]
    near: list[list[int]]
    test: Any
    bank: Any
    searched: int


@torch.no_grad()
def look(test: Shard, bank: Shard, data: tuple[Any, Any]) -> Seen:
    """Keep what the pictures need of the features of an evaluation; all ranks call it.

    Args:
        test: Features of the test set.
        bank: Those of the bank.
        data: Both data sets.
    """
    labels = test.all_labels
    queries = labels.argsort(stable=True)[_evenly(len(labels), QUERIES)]
    chosen = (labels < CLASSES).nonzero()[:, 0]
    chosen = chosen[_evenly(len(chosen), IMAGES)]
    asked, some = (test.take(rows).whole() for rows in (queries, chosen))
    assert asked is not None
    assert some is not None
    among = _evenly(len(bank.all_labels), _BANK)
    part = bank.take(among) if len(among) < len(bank.all_labels) else bank
    near, rows = nearest_with_similarity(part.features, asked.features, NEIGHBOURS)
    rows = among[part.rows[rows]]
    missing = NEIGHBOURS - near.shape[1]  # where a rank has few images
    near = torch.nn.functional.pad(near, (0, missing), value=-torch.inf)
    rows = torch.nn.functional.pad(rows, (0, missing))
    near, rows = (torch.cat(bank.gather(x), 1) for x in (near, rows))
    near, order = near.sort(1, descending=True)
    number = min(NEIGHBOURS, len(among))
    found = rows.gather(1, order)[:, :number].tolist()
    return Seen(some.features.cpu().float(), labels[chosen], queries.tolist(), found, *data, len(among))


def draw_pictures(seen: Seen, out: Path, title: str, seed: int, seconds: float) -> dict[str, Any]:
    """Draw the neighbours to a PNG, and return the facts for the report.

    Args:
        seen: What the evaluation has left.
        out: The PNG.
        title: What was run.
        seed: Of t-SNE.
        seconds: That the run has taken; t-SNE takes as many images as it can place in a hundredth of that.
    """
    labels, names = _labels(seen.bank), getattr(seen.test, 'classes', None)
    own = _labels(seen.test)
    tested, known = Items(seen.test), Items(seen.bank)
    rows, same = [], []
    for query, near in zip(seen.queries, seen.near, strict=True):
        equal = None if own is None or labels is None else [bool(labels[row] == own[query]) for row in near]
        same += equal or []
        name = '' if own is None else _class(names, int(own[query]))
        rows.append(Neighbourhood(raw_image(tested, query), [raw_image(known, row) for row in near], equal, name))
    draw_neighbours(rows, out, title)
    caption = f'{len(rows)} images on the left, and the nearest of {seen.searched} beside them, by cosine similarity.'
    if same:
        caption += f' {sum(same)} of {len(same)} are of the class of their image.'
    return dict(neighbours=dict(caption=caption), embedding=_embedding(seen, names, seed, seconds))


def raw_image(items: Items, row: int) -> Image.Image:
    """Return an image of a data set as it is stored.

    Raises:
        TypeError: If the data set is not of this package, so gives no such images.
    """
    leaf = items.leaves[items.leaf[row]]
    if not isinstance(leaf, BaseDataset):
        raise TypeError(f'{type(leaf).__name__} does not give its images without augmentation')
    return to_pil(leaf.read(int(items.row[row]))[0])


def add_embeddings(embedding: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return the facts of an embedding with t-SNE of all its images, and with UMAP if it is installed."""
    points = _unpacked(embedding['components'])
    found = dict(embedding['points'])
    for method in METHODS:
        if (method != 'umap' or has_umap()) and (method == 'pca' or len(points) >= LEAST):
            found[method] = place(points, method, seed).tolist()
    return dict(embedding, points=_rounded(found))


def _embedding(seen: Seen, names: Any, seed: int, seconds: float) -> dict[str, Any]:
    points = components(seen.features)
    placed = dict(pca=place(points, 'pca'))
    most = min(len(points), int(seconds * _SHARE / _SECONDS))
    if most >= 10 * LEAST:
        placed['tsne'] = place(points[_evenly(len(points), most)], 'tsne', seed)
    labels = [0] * len(points) if seen.labels is None else seen.labels.tolist()
    classes = ['images'] if seen.labels is None else [_class(names, n) for n in range(max(labels, default=0) + 1)]
    caption = f'{len(points)} images of the test set' if seen.labels is not None else f'{len(points)} images'
    if seen.labels is not None and len(names or ()) > CLASSES:
        caption += f', of the first {CLASSES} classes'
    caption += '. unmix report RUN places all of them by t-SNE.' if len(placed.get('tsne', ())) < len(points) else '.'
    return dict(
        points=_rounded({method: found.tolist() for method, found in placed.items()}), labels=labels, classes=classes,
        chosen=dict(tsne=_evenly(len(points), most).tolist()), components=_packed(points), caption=caption,
    )  # fmt: skip


def _evenly(number: int, most: int) -> Tensor:
    """Return at most ``most`` of the numbers from 0 to ``number`` - 1, evenly spaced."""
    return torch.linspace(0, max(number - 1, 0), min(number, most)).round().long()


def _labels(dataset: Any) -> Any:
    return getattr(dataset, 'labels', None)


def _class(names: Any, number: int) -> str:
    return shown(str(names[number])) if names is not None and number < len(names) else f'class {number}'


def _rounded(points: Mapping[str, Any]) -> dict[str, Any]:
    return {name: [[float(f'{x:.4g}') for x in point] for point in found] for name, found in points.items()}


def _packed(points: np.ndarray) -> dict[str, Any]:
    return dict(shape=list(points.shape), float16=base64.b64encode(points.astype('<f2').tobytes()).decode())


def _unpacked(packed: Mapping[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(packed['float16']), '<f2').astype(float).reshape(packed['shape'])
