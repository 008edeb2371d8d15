"""Nearest neighbours and embedding of a run, from features that its evaluation has computed, if it has any."""

import base64
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from unmix.checkpoint.data import Items
from unmix.datasets import BaseDataset, BrokenImage
from unmix.datasets.transforms import to_pil, to_tensor
from unmix.engine.loops.feature_loop import eval_mode
from unmix.evaluation.shard import Shard
from unmix.models import BaseAlgorithm
from unmix.utils.names import shown
from unmix.visualization.embedding import LEAST, METHODS, components, has_umap, place
from unmix.visualization.neighbours import Neighbourhood, draw_neighbours, nearest_with_similarity

QUERIES, NEIGHBOURS = 8, 8
IMAGES, CLASSES = 500, 10  # of an embedding
_BATCH = 64  # images that are encoded at once
_BANK = 2**15  # images that neighbours are looked for among
_START, _SECONDS = 0.2, 0.005  # that t-SNE takes to begin, and for an image, on a slow core
_SHARE, _FEWEST = 0.01, 30  # of the time of a run that t-SNE may take, and images without which it is left out


@dataclass(frozen=True)
class Seen:
    """A bounded part of what an evaluation has computed.

    Attributes:
        features: (N, D) of some images of the test set, N at most 500, on the host.
        labels: (N,) of them, or None.
        queries: (Q,) images of the test set, by their numbers there.
        near: (Q, K) images of the bank, likewise.
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
    rows, order = rows.sort(1)  # of equally near images the first comes first, on any number of ranks
    near, order = near.gather(1, order).sort(stable=True, dim=1, descending=True)
    number = min(NEIGHBOURS, len(among))
    found = bank.numbers(rows.gather(1, order)[:, :number]).tolist()
    asked_for = test.numbers(queries).tolist()
    return Seen(some.features.cpu().float(), labels[chosen], asked_for, found, *data, len(among))


@torch.no_grad()
def look_at_training(model: Any, dataset: Any, view: Tensor) -> Seen | None:
    """Compute features of at most 500 images of a training that evaluates nothing, resized and cropped to its views.

    Args:
        model: A method, in one piece.
        dataset: That it was trained on.
        view: (N, C, H, W) uint8, some views before the preprocessor.

    Returns:
        None if the model or the data set is not of this package, or none of these images can be read.
    """
    items = Items(dataset)
    if not isinstance(model, BaseAlgorithm) or not all(isinstance(leaf, BaseDataset) for leaf in items.leaves):
        return None
    size = list(view.shape[-2:])
    rows: list[int] = []
    found = []
    with eval_mode(model):
        for part in _evenly(len(items), IMAGES).split(_BATCH):
            images = _readable(items, part.tolist())
            if not images:
                continue
            rows += images
            kind = 'L' if view.shape[1] == 1 else 'RGB'
            inputs = [to_tensor(ImageOps.fit(image.convert(kind), (size[1], size[0]))) for image in images.values()]
            batch = model.data_preprocessor(dict(inputs=torch.stack(inputs).to(view.dtype)), False)
            found.append(model.extract_feat(batch['inputs']).flatten(1).float().cpu())
    if not rows:
        return None
    features = torch.cat(found)
    queries = _evenly(len(rows), QUERIES)
    _, near = nearest_with_similarity(features, features[queries], NEIGHBOURS + 1)
    others = [[n for n in own.tolist() if n != query][:NEIGHBOURS] for own, query in zip(near, queries, strict=True)]
    shown_rows = [[rows[n] for n in own] for own in others]
    return Seen(features, None, [rows[n] for n in queries.tolist()], shown_rows, dataset, dataset, len(rows) - 1)


def draw_seen(seen: Seen, out: Path, title: str) -> dict[str, Any]:
    """Draw the neighbours to a PNG, and return what the report says of them: nothing if the images are not known.

    Images that cannot be read any more are left out.

    Args:
        seen: What the evaluation has left.
        out: The PNG.
        title: What was run.
    """
    labels, names = _labels(seen.bank), getattr(seen.test, 'classes', None)
    own = _labels(seen.test)
    tested, known = Items(seen.test), Items(seen.bank)
    if not all(isinstance(leaf, BaseDataset) for leaf in [*tested.leaves, *known.leaves]):
        return {}
    rows, same = [], []
    for query, image in _readable(tested, seen.queries).items():
        near = _readable(known, seen.near[seen.queries.index(query)])
        equal = None if own is None or labels is None else [bool(labels[row] == own[query]) for row in near]
        same += equal or []
        name = '' if own is None else _class(names, int(own[query]))
        rows.append(Neighbourhood(image, list(near.values()), equal, name))
    if not rows:
        return {}
    draw_neighbours(rows, out, title)
    caption = f'{len(rows)} images on the left, and the nearest of {seen.searched} beside them, by cosine similarity.'
    if same:
        caption += f' {sum(same)} of {len(same)} are of the class of their image.'
    return dict(caption=caption)


def raw_image(items: Items, row: int) -> Image.Image:
    """Return an image of data sets of this package as it is stored."""
    leaf = items.leaves[items.leaf[row]]
    return to_pil(leaf.read(int(items.row[row]))[0])


def _readable(items: Items, rows: Sequence[int]) -> dict[int, Image.Image]:
    """Return the images of these rows by row, without those that cannot be read."""
    images = {}
    for row in rows:
        with suppress(BrokenImage):
            images[row] = raw_image(items, row)
    return images


def add_embeddings(embedding: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return the facts of an embedding with t-SNE of all its images, and with UMAP if it is installed."""
    points = _unpacked(embedding['components'])
    found = dict(embedding['points'])
    for method in METHODS:
        if (method != 'umap' or has_umap()) and (method == 'pca' or len(points) >= LEAST):
            found[method] = place(points, method, seed).tolist()
    return dict(embedding, points=_rounded(found))


def embed_seen(seen: Seen, seed: int, seconds: float) -> dict[str, Any]:
    """Return the facts of an embedding for the report.

    Args:
        seen: What the evaluation has left.
        seed: Of t-SNE.
        seconds: Of the processor that the run has taken; t-SNE takes as many images as it can place in a hundredth of
            that.
    """
    names = getattr(seen.test, 'classes', None)
    points = components(seen.features)
    placed = dict(pca=place(points, 'pca'))
    most = max(0, min(len(points), int((seconds * _SHARE - _START) / _SECONDS)))
    if most >= min(_FEWEST, len(points)) and most >= LEAST:
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
