"""Accuracy of a trained classifier, for MMEngine's own loops."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from unmix.registry import METRICS


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Share of images, in percent, whose class is among the k with the highest scores: ``accuracy/top1``, ...

    Classes with the score of the right one count as ranked below it only if their number is larger.

    Of a head with several layers each has its own, ``accuracy_lr30/top1``, and ``accuracy/top1`` is that of the best
    layer on these images, whose number (from 0) is ``accuracy/head``.

    Those of a classifier's control on random weights are named ``random_init/accuracy/top1``, ...

    Args:
        topk: The values of k.
        collect_device: Where results of several processes meet, ``'cpu'`` or ``'gpu'``.
    """

    default_prefix = 'accuracy'

    def __init__(self, topk: Sequence[int] = (1, 5), collect_device: str = 'cpu') -> None:
        super().__init__(collect_device)
        self.prefix = None  # the names below are whole
        self.topk = tuple(topk)
        self.names: tuple[str, ...] = ()

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the rank (0 is the best) of each image's class.

        Args:
            data_batch: Not read.
            data_samples: One dict an image, with ``scores`` (C,), or (L, C) of L layers called ``names``, and
                ``label`` (), and ``random_init``, scores as well, of a control.

        Raises:
            ValueError: If the images have no labels.
        """
        if any(sample.get('label') is None for sample in data_samples):
            raise ValueError('Accuracy needs labels, but val_dataloader or test_dataloader delivers none.')
        self.names = tuple(data_samples[0].get('names', ()))
        label = torch.stack([torch.as_tensor(sample['label']) for sample in data_samples])
        names = [name for name in ('scores', 'random_init') if name in data_samples[0]]
        ranks = [_ranks(torch.stack([sample[name] for sample in data_samples]), label) for name in names]
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


def _ranks(scores: Tensor, label: Tensor) -> list[Any]:
    """Rank (0 is the best) of each image's class ``label`` (N,) among ``scores`` (N, C), or of L layers (N, L, C)."""
    label = label.to(scores.device).view(-1, *[1] * (scores.ndim - 1)).expand(*scores.shape[:-1], 1)
    own = scores.gather(-1, label)
    smaller = torch.arange(scores.shape[-1], device=scores.device) < label
    return ((scores > own) | ((scores == own) & smaller)).sum(-1).tolist()
