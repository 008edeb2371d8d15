"""k-nearest-neighbour classification. Shapes: M features, N in the bank, D dimensions, C classes."""

import math
from collections.abc import Sequence
from itertools import product
from numbers import Integral
from typing import ClassVar

import torch
from mmengine.dist import get_world_size
from torch import Tensor
from torch.nn import functional as F

from unmix.evaluation.accuracy import rank_of_class
from unmix.evaluation.shard import Features, Shard
from unmix.registry import METRICS
from unmix.utils.labels import check_labels

_BLOCK = 2**25  # similarities, or class scores, held at once: 128 MiB in float32
_ROWS = 2**13  # of the bank in a product of matrices, at most
_PANEL_ROWS = 2**16  # of the bank in a search, at most; few searches are faster than many
_PANEL = 2**26  # numbers of them, at most
_LISTS = 2**22  # numbers that are sorted, or lists of neighbours that are exchanged, at once
_NO_LABEL = torch.iinfo(torch.long).max  # in a list that is not full


@METRICS.register_module()
class KNN:
    """Accuracy of the weighted kNN classifier on L2-normalised features; see :func:`knn_scores`.

    Several k or temperatures share one search.

    Args:
        k: Number of neighbours, or several; 200 is MoCo's and Un-Mix's on CIFAR and ImageNet, 10, 20, 100 and 200 are
            those of `DINO <https://arxiv.org/abs/2104.14294>`_.
        temperature: Of the weights ``exp(cosine / temperature)``, or several; DINO's is 0.07.
        chunk_size: Images classified at once; by default as many as give 2**25 similarities.
        name: Prefix of the results; two metrics of one list need different names. With several k it is
            ``{name}_{k}``, with several temperatures ``{name}_{k}_t{temperature}``.

    Raises:
        ValueError: If there is no k or no temperature, or one of them is out of its range.
    """

    sharded: ClassVar[bool] = True
    euclidean: ClassVar[bool] = False
    tops: ClassVar[tuple[int, ...]] = (1, 5)

    def __init__(
        self,
        k: int | Sequence[int] = 200,
        temperature: float | Sequence[float] = 0.1,
        chunk_size: int | None = None,
        name: str = 'knn',
    ) -> None:
        self.k = list(k) if isinstance(k, Sequence) else [k]
        self.temperature = list(temperature) if isinstance(temperature, Sequence) else [temperature]
        if not self.k or not self.temperature:
            raise ValueError(f'kNN: k={k} and temperature={temperature}; give at least one of each.')
        for each in product(self.k, self.temperature):
            _check_arguments(*each, chunk_size)
        self.chunk_size = chunk_size
        self.name = name

    def __call__(self, bank: Features | Shard, test: Features) -> dict[str, float]:
        """Return ``top1``, and with more than 5 classes ``top5``, in percent; of several ``NAME/top1``.

        A class without any neighbour is never among the top k.

        Args:
            bank: Labelled features, or this rank's shard of them; then all ranks call it, and get the same.
            test: Features to classify.
        """
        shard = Shard.of(bank)
        num_classes = int(max(shard.all_labels.max(), test.labels.max())) + 1
        similarity, labels = _search(
            test.features, shard, max(self.k), num_classes, self.chunk_size, self.euclidean, unit=not self.euclidean
        )
        results: dict[str, float] = {}
        for k, temperature in product(self.k, self.temperature):
            chunks = (
                torch.split(x, max(1, _BLOCK // num_classes)) for x in (similarity[:, :k], labels[:, :k], test.labels)
            )
            rank = torch.cat(
                [
                    rank_of_class(_class_scores(near, classes, temperature, num_classes, none=-math.inf), truth)
                    for near, classes, truth in zip(*chunks, strict=True)
                ]
            )
            tops = [top for top in self.tops if top == 1 or num_classes > top]
            accuracies = {top: 100.0 * (rank < top).double().mean().item() for top in tops}
            results |= {f'{self._prefix(k, temperature)}top{top}': value for top, value in accuracies.items()}
        return results

    def _prefix(self, k: int, temperature: float) -> str:
        if len(self.k) == len(self.temperature) == 1:
            return ''
        return f'{self.name}_{k}' + (f'_t{temperature:g}' if len(self.temperature) > 1 else '') + '/'


@METRICS.register_module()
class EuclideanKNN(KNN):
    """Top-1 accuracy of the majority of the Euclidean neighbours, on features as they are; see :func:`knn_vote`.

    Args:
        k: Number of neighbours, or several.
        name: Prefix of the results, as in :class:`KNN`.

    Raises:
        ValueError: If there is no k.
    """

    euclidean = True
    tops = (1,)

    def __init__(self, k: int | Sequence[int] = 5, name: str = 'knn') -> None:
        super().__init__(k, math.inf, name=name)


@torch.no_grad()
def knn_scores(
    features: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    k: int = 200,
    temperature: float = 0.1,
    num_classes: int | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Score the classes of each feature by its nearest neighbours in a labelled bank.

    ``score[c] = sum over the k neighbours n with label c of exp(similarity_n / temperature)``

    (`Instance Discrimination <https://arxiv.org/abs/1805.01978>`_, Sec. 3.4; the monitor of MoCo and Un-Mix on CIFAR).
    Similarity is the inner product: the cosine, if the caller gives rows of unit length. Of neighbours that are
    equally near at rank k the smallest labels count, so the order of the bank does not matter.

    Args:
        features: (M, D), unit rows, any floating type.
        bank: (N, D), unit rows.
        bank_labels: (N,) integers in [0, num_classes).
        k: Number of neighbours; one larger than the bank is the whole bank.
        temperature: Small gives the nearest neighbours more weight.
        num_classes: C; by default the largest label plus one.
        chunk_size: Features compared with the bank at once; by default as many as give 2**25 similarities.

    Returns:
        Class scores (M, C), zero for a class without neighbour; in float32 for features of half precision.

    Raises:
        ValueError: If k, temperature or chunk_size is not positive, the temperature is so small that scores overflow,
            or shapes or labels do not fit.
    """
    return _scores(features, bank, bank_labels, k, temperature, num_classes, chunk_size, none=0.0)


def knn_predict(
    features: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    k: int = 200,
    temperature: float = 0.1,
    num_classes: int | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Return the classes (M, C) by falling score, of equal scores the smallest class first; see :func:`knn_scores`.

    A class without any neighbour is not predicted: -1 stands in its place, after all others.
    """
    scores = _scores(features, bank, bank_labels, k, temperature, num_classes, chunk_size, none=-math.inf)
    ranked = scores.sort(dim=1, descending=True, stable=True)
    return ranked.indices.masked_fill(ranked.values == -math.inf, -1)


def knn_vote(features: Tensor, bank: Tensor, bank_labels: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
    """Classify each feature by the majority of its nearest neighbours, by Euclidean distance, in a labelled bank.

    The monitor of htdt's `W-MSE <https://arxiv.org/abs/2007.06346>`_ repository. Of classes with equally many
    neighbours the smallest wins. Arguments (rows of any length) and errors are those of :func:`knn_scores`.

    Returns:
        Classes (M,), and the neighbours' labels (M, min(k, N)), nearest first.
    """
    _check_arguments(k, math.inf)
    similarity, labels = knn_neighbours(features, bank, bank_labels, k, euclidean=True)
    return _class_scores(similarity, labels, math.inf, int(bank_labels.max()) + 1).argmax(1), labels


@torch.no_grad()
def knn_neighbours(
    features: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    k: int,
    num_classes: int | None = None,
    chunk_size: int | None = None,
    euclidean: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return similarity and label of the k nearest in the bank, both (M, min(k, N)), nearest first.

    Of equally near ones the smallest label comes first, so the first j columns are the j nearest. Arguments and errors
    are those of :func:`knn_scores`; with ``euclidean`` the similarity is the negative distance, of rows of any length.
    """
    return _search(features, Shard.of(Features(bank, bank_labels)), k, num_classes, chunk_size, euclidean)


@torch.no_grad()
def _search(
    features: Tensor,
    bank: Shard,
    k: int,
    num_classes: int | None,
    chunk_size: int | None,
    euclidean: bool,
    unit: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return what :func:`knn_neighbours` returns, on all ranks alike; with ``unit`` rows are brought to unit length.

    A product of matrices has blocks of equally many rows of the bank, the last filled with zeros. So the similarity of
    two images is a function of the two and of the shapes of blocks, which all ranks and any number of them share, bit
    for bit. Some blocks are a panel, of which a rank keeps the nearest rows. Of the lists of all panels and ranks the
    nearest count, in the order of falling similarity and rising label, which does not depend on how rows are shared.
    """
    shapes = [tuple(x.shape) for x in (features, bank.features, bank.labels)]
    if features.ndim != 2 or shapes[1][1:] != shapes[0][1:] or shapes[2] != shapes[1][:1]:
        raise ValueError(
            f'kNN: features {shapes[0]}, bank {shapes[1]}, labels {shapes[2]}; expected (M, D), (N, D), (N,).'
        )
    total, (images, width) = len(bank.all_labels), features.shape
    if total == 0:
        raise ValueError('kNN: the bank is empty; bank_dataloader must deliver at least one image.')
    check_labels(bank.all_labels, num_classes, 'kNN, the bank')
    limit = _PANEL // max(1, width)
    k, rows = min(k, total), _even(total, max(1, min(_ROWS, limit)))
    panel = rows * max(1, min(_PANEL_ROWS, limit) // rows)
    chunk_size = chunk_size or max(1, _BLOCK // min(total, panel))
    similarity = features.new_full((images, k), -math.inf)
    labels = features.new_full((images, k), _NO_LABEL, dtype=torch.long)
    own = bank.labels.to(features.device)
    for start in range(0, len(own), panel):
        classes, blocks = own[start : start + panel], []
        for part in torch.split(bank.features[start : start + panel], rows):
            blocks.append(F.pad(part.to(features), (0, 0, 0, rows - len(part))))
            if unit:
                F.normalize(blocks[-1], dim=1, out=blocks[-1])
        for first in range(0, images, chunk_size):
            chunk = slice(first, first + chunk_size)
            queries = F.normalize(features[chunk], dim=1) if unit else features[chunk]
            near = features.new_empty(len(queries), len(blocks) * rows)
            for block, columns in zip(blocks, near.split(rows, 1), strict=True):
                columns.copy_(torch.cdist(queries, block).neg_() if euclidean else queries @ block.T)
            values, found = _nearest(near[:, : len(classes)], classes, k)
            values, found = torch.cat([similarity[chunk], values], 1), torch.cat([labels[chunk], found], 1)
            similarity[chunk], labels[chunk] = _nearest(values, found, k)
    for start in range(0, images, step := max(1, _LISTS // (k * get_world_size()))):
        chunk = slice(start, start + step)
        values, found = (torch.cat(bank.gather(lists[chunk]), 1) for lists in (similarity, labels))
        values, found = _nearest(values, found, k)
        by_label = found.argsort(dim=1, stable=True)
        similarity[chunk], by_similarity = values.gather(1, by_label).sort(dim=1, descending=True, stable=True)
        labels[chunk] = found.gather(1, by_label).gather(1, by_similarity)
    return similarity, labels


def _even(total: int, most: int) -> int:
    """Return the size of a block where ``total`` rows are divided into as few equal blocks as ``most`` allows."""
    return math.ceil(total / math.ceil(total / most))


def _nearest(similarity: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return similarity and label of the top k of each row; of equal values at rank k those with the smallest labels.

    Args:
        similarity: (M, N).
        labels: (M, N), or (N,) of all rows.
        k: At least N are returned.
    """
    if similarity.shape[1] <= k:
        return similarity, labels.expand(similarity.shape)
    values, columns = similarity.topk(k + 1, dim=1)  # one more tells where the cut goes through equal values
    cut = (values[:, k] == values[:, k - 1]).nonzero()[:, 0]
    values, columns = values[:, :k], columns[:, :k]
    if len(cut):
        for rows in torch.split(cut, max(1, _LISTS // similarity.shape[1])):  # all rows, if all features are equal
            order = (labels if labels.ndim == 1 else labels[rows]).argsort(dim=-1, stable=True).expand(len(rows), -1)
            best = similarity[rows].gather(1, order).sort(dim=1, descending=True, stable=True).indices[:, :k]
            columns[rows] = order.gather(1, best)
    return values, labels[columns] if labels.ndim == 1 else labels.gather(1, columns)


@torch.no_grad()
def _scores(
    features: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    k: int,
    temperature: float,
    num_classes: int | None,
    chunk_size: int | None,
    none: float,
) -> Tensor:
    """Scores (M, C) of :func:`knn_scores`, ``none`` for a class without neighbour."""
    _check_arguments(k, temperature, chunk_size)
    similarity, labels = _search(
        features, Shard.of(Features(bank, bank_labels)), k, num_classes, chunk_size, euclidean=False
    )
    num_classes = int(bank_labels.max()) + 1 if num_classes is None else num_classes
    return _class_scores(similarity, labels, temperature, num_classes, none)


def _class_scores(
    similarity: Tensor, labels: Tensor, temperature: float, num_classes: int, none: float = 0.0
) -> Tensor:
    """Scores (M, C) by neighbours (M, k), ``none`` for a class without neighbour.

    At the temperature ``math.inf`` they are the numbers of neighbours.
    """
    similarity = similarity.to(torch.promote_types(similarity.dtype, torch.float32))
    scores = similarity.new_full((len(similarity), num_classes), none)
    scores.scatter_(1, labels, 0.0)  # the classes that have a neighbour
    return scores.scatter_add_(1, labels, (similarity / temperature).exp())


def _check_arguments(k: int, temperature: float, chunk_size: int | None = None) -> None:
    """Refuse numbers below 1, and a temperature that is not positive or at which the scores overflow."""
    if any(not isinstance(number, Integral) or number < 1 for number in (k, 1 if chunk_size is None else chunk_size)):
        raise ValueError(f'kNN: k={k} and chunk_size={chunk_size}; both must be whole numbers of at least 1.')
    if not temperature > 0 or 1 / temperature + math.log(k) > math.log(torch.finfo(torch.float32).max):
        raise ValueError(
            f'kNN: temperature={temperature}; it must be positive and so large that k * exp(1 / temperature) is a '
            f'finite {torch.float32} (k={k}). The usual values are 0.07 and 0.1.'
        )
