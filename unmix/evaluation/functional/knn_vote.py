"""k-nearest-neighbour classification by majority."""

import torch
from torch import Tensor

_BLOCK = 2**25  # distances held at once: 128 MiB in float32


@torch.no_grad()
def knn_vote(features: Tensor, bank: Tensor, bank_labels: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
    """Classify each feature by the majority of its nearest neighbours, by Euclidean distance, in a labelled bank.

    The monitor of htdt's `W-MSE <https://arxiv.org/abs/2007.06346>`_ repository. Of classes with equally many
    neighbours the smallest wins.

    Args:
        features: (M, D), any floating type.
        bank: (N, D).
        bank_labels: (N,) integers from 0.
        k: Number of neighbours; one larger than the bank is the whole bank.

    Returns:
        Classes (M,), and the neighbours' labels (M, k), nearest first.

    Raises:
        ValueError: If k is not positive, or the shapes do not fit.
    """
    if k < 1 or features.ndim != 2 or features.shape[1:] != bank.shape[1:] or bank_labels.shape != bank.shape[:1]:
        raise ValueError(
            f'kNN: k={k}, features {tuple(features.shape)}, bank {tuple(bank.shape)}, labels '
            f'{tuple(bank_labels.shape)}; expected k > 0, (M, D), (N, D), (N,).'
        )
    bank = bank.to(features.dtype)
    rows = max(1, _BLOCK // len(bank))
    nearest = [
        torch.cdist(chunk, bank).topk(min(k, len(bank)), dim=1, largest=False).indices for chunk in features.split(rows)
    ]
    labels = bank_labels[torch.cat(nearest)]
    votes = labels.new_zeros(len(labels), int(bank_labels.max()) + 1)
    votes.scatter_add_(1, labels, torch.ones_like(labels))
    return votes.sort(dim=1, descending=True, stable=True).indices[:, 0], labels
