"""Accuracy of a trained classifier, for MMEngine's own loops."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from unmix.registry import METRICS

NO_RANK = 2**31 - 1
CHUNK = 2**25  # features or scores held at once: 128 MiB in float32


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Share of images, in percent, whose class is among the k with the highest scores: ``accuracy/top1``, ...

    Of classes with equal scores the smallest ranks first.

    Each layer of a head with several has its own results, ``accuracy_lr30/top1``; ``accuracy/top1`` is that of the
    best layer on these images, and ``accuracy/head`` is the number (from 0) of that layer. Results of a classifier's
    control on random weights are named ``random_init/accuracy/top1``, ...

    Args:
        topk: The values of k.
        collect_device: Where the results of all processes are collected, ``'cpu'`` or ``'gpu'``.
    """

    default_prefix = 'accuracy'

    def __init__(self, topk: Sequence[int] = (1, 5), collect_device: str = 'cpu') -> None:
        super().__init__(collect_device)
        self.prefix = None  # the names below are whole
        self.topk = tuple(topk)
        self.names: tuple[str, ...] = ()

    def process(self, data_batch: Any, data_samples: Sequence[dict[str, Any]]) -> None:
        """Keep the rank (0 is the best) of each image's class.

        Args:
            data_batch: Not read.
            data_samples: One dict per image, with ``scores`` (C,), or (L, C) of L layers called ``names``, and
                ``label`` (), and for a control ``random_init``, scores as well.

        Raises:
            ValueError: If the images have no labels.
        """
        if any(sample.get('label') is None for sample in data_samples):
            raise ValueError('Accuracy needs labels, but val_dataloader or test_dataloader delivers none.')
        self.names = tuple(data_samples[0].get('names', ()))
        label = torch.stack([torch.as_tensor(sample['label']) for sample in data_samples])
        ranks = []
        for name in ('scores', 'random_init'):
            if name in data_samples[0]:
                scores = torch.stack([sample[name] for sample in data_samples])
                classes = label.to(scores.device).view(-1, *[1] * (scores.ndim - 2)).expand(scores.shape[:-1])
                ranks.append(rank_of_class(scores, classes).tolist())
        self.results.extend(zip(*ranks, strict=True))

    def compute_metrics(self, results: list[tuple[Any, ...]]) -> dict[str, float]:
        """Return the accuracies of the ranks of all images, and those of the control."""
        own, *control = (self._accuracies(torch.tensor(ranks)) for ranks in zip(*results, strict=True))
        return own | {f'random_init/{key}': value for values in control for key, value in values.items()}

    def _accuracies(self, ranks: Tensor) -> dict[str, float]:
        hits = {f'top{k}': 100.0 * (ranks < k).double().mean(0) for k in self.topk}
        if ranks.ndim == 1:
            return {f'accuracy/{key}': hit.item() for key, hit in hits.items()}
        best = int(hits[f'top{self.topk[0]}'].argmax())
        found = {f'accuracy/{key}': hit[best].item() for key, hit in hits.items()} | {'accuracy/head': float(best)}
        return found | {
            f'accuracy_{name}/{key}': hit[i].item() for key, hit in hits.items() for i, name in enumerate(self.names)
        }


def rank_of_class(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the rank (...) of the classes ``labels`` (...) among ``scores`` (..., C).

    0 is the best; of equal scores the smallest class comes first. A class whose score is NaN or minus infinity has no
    rank: it gets :data:`NO_RANK`, which is no hit for any k.
    """
    labels = labels[..., None]
    own = scores.gather(-1, labels)
    smaller = torch.arange(scores.shape[-1], device=scores.device) < labels
    rank = ((scores > own) | ((scores == own) & smaller)).sum(-1)
    return torch.where(own[..., 0] > -torch.inf, rank, NO_RANK)


@torch.no_grad()
def count_hits(
    scores: Callable[[Tensor], Tensor], features: Tensor, labels: Tensor, num_classes: int, ks: Sequence[int]
) -> Tensor:
    """Return of how many images the class is among the k best, for each of ``ks``: (len(ks),) int64.

    Args:
        scores: From features (m, D) to scores (m, C), of some rows at a time.
        features: (M, D).
        labels: (M,) in [0, C).
        num_classes: C.
        ks: Numbers of classes.
    """
    hits = torch.zeros(len(ks), dtype=torch.long, device=features.device)
    size = max(1, CHUNK // max(1, features.shape[1], num_classes))
    for some, truth in zip(torch.split(features, size), torch.split(labels, size), strict=True):
        rank = rank_of_class(scores(some), truth)
        hits += torch.stack([(rank < k).sum() for k in ks])
    return hits
