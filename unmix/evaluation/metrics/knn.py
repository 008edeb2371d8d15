"""Accuracy of k-nearest-neighbour classifiers."""

import math
from collections.abc import Sequence
from itertools import product
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from unmix.evaluation.functional.knn import check_temperature, class_scores, knn_neighbours
from unmix.evaluation.metrics.features import Features
from unmix.registry import METRICS

_BLOCK = 2**25  # class scores held at once: 128 MiB in float32


@METRICS.register_module()
class KNN:
    """Accuracy of the weighted kNN classifier on L2-normalised features; see :func:`unmix.evaluation.knn_scores`.

    Several k or temperatures cost one search.

    Args:
        k: Number of neighbours, or several; 200 is MoCo's and Un-Mix's on CIFAR and ImageNet, 10, 20, 100 and 200 are
            those of `DINO <https://arxiv.org/abs/2104.14294>`_.
        temperature: Of the weights ``exp(cosine / temperature)``, or several; DINO's is 0.07.
        chunk_size: Images classified at once; by default as many as give 2**25 similarities.
        name: Prefix of the results; give each its own where a list holds two. With several k it is
            ``{name}_{k}``, with several temperatures ``{name}_{k}_t{temperature}``.

    Raises:
        ValueError: If there is no k or no temperature.
    """

    euclidean: ClassVar[bool] = False
    tops: ClassVar[tuple[int, ...]] = (1, 5)

    def __init__(
        self,
        k: int | Sequence[int] = 200,
        temperature: float | Sequence[float] = 0.1,
        chunk_size: int | None = None,
        name: str = 'knn',
    ) -> None:
        self.k = [k] if isinstance(k, int) else list(k)
        self.temperature = [temperature] if isinstance(temperature, int | float) else list(temperature)
        if not self.k or not self.temperature or min(self.k) < 1:
            raise ValueError(f'KNN: k={k}, temperature={temperature}; give at least one of each, and k of at least 1.')
        self.chunk_size = chunk_size
        self.name = name

    def __call__(self, bank: Features, test: Features) -> dict[str, float]:
        """Return ``top1``, and with more than 5 classes ``top5``, in percent; of several ``NAME/top1``."""
        num_classes = int(max(bank.labels.max(), test.labels.max())) + 1
        for temperature in self.temperature:
            check_temperature(temperature, test.features.dtype)
        queries, others = (x if self.euclidean else F.normalize(x, dim=1) for x in (test.features, bank.features))
        similarity, labels = knn_neighbours(
            queries, others, bank.labels, max(self.k), num_classes, self.chunk_size, self.euclidean
        )
        results: dict[str, float] = {}
        for k, temperature in product(self.k, self.temperature):
            rank = _ranks(similarity[:, :k], labels[:, :k], temperature, num_classes, test.labels)
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
    """Accuracy of the majority of the Euclidean neighbours, on features as they are, see :func:`knn_vote`; top 1 only.

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


def _ranks(similarity: Tensor, labels: Tensor, temperature: float, num_classes: int, truth: Tensor) -> Tensor:
    """Rank (M,) of the true class, 0 is the best; of equal scores the smallest class comes first."""
    ranks = truth.new_empty(len(truth))
    for start in range(0, len(truth), rows := max(1, _BLOCK // num_classes)):
        chunk = slice(start, start + rows)
        scores = class_scores(similarity[chunk], labels[chunk], temperature, num_classes)
        order = scores.sort(dim=1, descending=True, stable=True).indices
        ranks[chunk] = (order == truth[chunk, None]).int().argmax(1)
    return ranks
