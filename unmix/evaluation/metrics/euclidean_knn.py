"""Accuracy of an unweighted k-nearest-neighbour classifier."""

from unmix.evaluation.functional import knn_vote
from unmix.evaluation.metrics.features import Features
from unmix.registry import METRICS


@METRICS.register_module()
class EuclideanKNN:
    """Accuracy of the majority of the Euclidean neighbours, on features as they are; see
    :func:`unmix.evaluation.knn_vote`.

    Args:
        k: Number of neighbours.
        name: Prefix of the results; give each its own where a list holds two.
    """

    def __init__(self, k: int = 5, name: str = 'knn') -> None:
        self.k = k
        self.name = name

    def __call__(self, bank: Features, test: Features) -> dict[str, float]:
        """Return ``top1`` in percent."""
        predicted, _ = knn_vote(test.features, bank.features, bank.labels, self.k)
        return {'top1': 100.0 * (predicted == test.labels).double().mean().item()}
