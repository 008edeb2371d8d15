"""Accuracy of a weighted k-nearest-neighbour classifier."""

from torch.nn import functional as F

from unmix.evaluation.functional import knn_predict
from unmix.evaluation.metrics.features import Features
from unmix.registry import METRICS


@METRICS.register_module()
class KNN:
    """Accuracy of the weighted kNN classifier on L2-normalised features; see :func:`unmix.evaluation.knn_scores`.

    Args:
        k: Number of neighbours; 200 is MoCo's and Un-Mix's on CIFAR and ImageNet.
        temperature: Of the weights ``exp(cosine / temperature)``.
        chunk_size: Images compared with the bank at once; by default chosen to bound the memory.
        name: Prefix of the results; give each its own where a list holds two.
    """

    def __init__(
        self, k: int = 200, temperature: float = 0.1, chunk_size: int | None = None, name: str = 'knn'
    ) -> None:
        self.k = k
        self.temperature = temperature
        self.chunk_size = chunk_size
        self.name = name

    def __call__(self, bank: Features, test: Features) -> dict[str, float]:
        """Return ``top1``, and with more than 5 classes ``top5``, in percent."""
        num_classes = int(max(bank.labels.max(), test.labels.max())) + 1
        ranking = knn_predict(
            F.normalize(test.features, dim=1),
            F.normalize(bank.features, dim=1),
            bank.labels,
            self.k,
            self.temperature,
            num_classes,
            self.chunk_size,
        )
        hits = ranking[:, :5] == test.labels[:, None]
        result = {'top1': hits[:, :1]} | ({'top5': hits} if num_classes > 5 else {})
        return {name: 100.0 * hit.any(1).double().mean().item() for name, hit in result.items()}
