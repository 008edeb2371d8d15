"""Accuracy of a linear classifier that is trained on frozen features, at several learning rates at once."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.evaluation.accuracy import rank_of_class
from unmix.evaluation.extraction import Features
from unmix.registry import METRICS
from unmix.utils.rng import generator, seeded


@METRICS.register_module()
class LinearTraining:
    """Accuracy of a linear layer trained by a gradient method on features that were computed once.

    The loss is ``mean cross-entropy(W x + b)``. Each epoch takes its batches from a new permutation, the smaller last
    batch included. The default is the linear evaluation of htdt's `W-MSE <https://arxiv.org/abs/2007.06346>`_
    repository (there "sgd"): Adam with a weight decay of 5e-6, 500 epochs of batches of 1000; its rate falls from 1e-2
    to 1e-6 by a factor per epoch. Each learning rate has its own layer; all layers start with equal weights and see the
    same batches.

    Args:
        lr: Learning rate, or several.
        epochs: Passes over the features.
        batch_size: Features of a step.
        optimizer: Name in ``torch.optim`` and arguments, without the rate. None: htdt's Adam.
        scheduler: Name in ``torch.optim.lr_scheduler`` and arguments; it steps once per epoch. None: htdt's, by a
            factor per epoch to 1e-4 of the rate after the last. ``dict(type='ConstantLR', factor=1)`` is a constant
            rate.
        std: Of the initial weights, with a bias of 0; None: PyTorch's initialisation.
        seed: Of initial weights and permutations.
        name: Prefix of the results.

    Raises:
        ValueError: If there is no learning rate, or epochs or batch_size is not positive.
    """

    def __init__(
        self,
        lr: float | Sequence[float] = 1e-2,
        epochs: int = 500,
        batch_size: int = 1000,
        optimizer: Mapping[str, Any] | None = None,
        scheduler: Mapping[str, Any] | None = None,
        std: float | None = None,
        seed: int = 0,
        name: str = 'linear',
    ) -> None:
        self.lrs = [float(lr)] if isinstance(lr, int | float) else [float(value) for value in lr]
        if not self.lrs or epochs < 1 or batch_size < 1:
            raise ValueError(
                f'LinearTraining: lr={lr}, epochs={epochs}, batch_size={batch_size}; give a learning rate and numbers '
                'of at least 1.'
            )
        self.epochs, self.batch_size, self.std, self.seed, self.name = epochs, batch_size, std, seed, name
        self.optimizer = optimizer or dict(type='Adam', weight_decay=5e-6)
        self.scheduler = scheduler or dict(type='ExponentialLR', gamma=1e-4 ** (1 / epochs))

    def __call__(self, bank: Features, test: Features) -> dict[str, float]:
        """Return accuracies in percent.

        ``top1`` and, with more than 5 classes, ``top5`` are those after the last epoch, ``best_top1`` and
        ``best_epoch`` those of the best epoch on the test set. With several learning rates each has these results as
        ``NAME_lr0.1/top1``, ``top1`` is the best of the last accuracies, and ``lr`` is its rate.
        """
        num_classes = int(max(bank.labels.max(), test.labels.max())) + 1
        with torch.enable_grad():
            history = self.train(bank, test, num_classes)
        top1 = history[..., 0]
        results: dict[str, float] = {}
        winner = int(top1[-1].argmax())
        for i, lr in enumerate(self.lrs):
            values = {'top1': top1[-1, i]} | ({'top5': history[-1, i, 1]} if num_classes > 5 else {})
            values |= {'best_top1': top1[:, i].max(), 'best_epoch': top1[:, i].argmax() + 1}
            if i == winner:
                results |= {key: float(value) for key, value in values.items()}
            if len(self.lrs) > 1:
                results |= {f'{self.name}_lr{lr:g}/{key}': float(value) for key, value in values.items()}
        return results | ({'lr': self.lrs[winner]} if len(self.lrs) > 1 else {})

    def train(self, bank: Features, test: Features, num_classes: int) -> Tensor:
        """Train all layers; return top-1 and top-5 on the test set after each epoch: (epochs, learning rates, 2)."""
        layers = self.layers(bank.features, num_classes)
        groups = [dict(params=list(layer.parameters()), lr=lr) for layer, lr in zip(layers, self.lrs, strict=True)]
        optimizer = _build(torch.optim, self.optimizer, groups, lr=self.lrs[0])
        scheduler = _build(torch.optim.lr_scheduler, self.scheduler, optimizer)
        rng = generator('linear_training', self.seed)
        history = []
        for _ in range(self.epochs):
            order = torch.from_numpy(rng.permutation(len(bank.labels))).to(bank.labels.device)
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                losses = [F.cross_entropy(layer(bank.features[rows]), bank.labels[rows]) for layer in layers]
                optimizer.zero_grad()
                torch.autograd.backward(torch.stack(losses).sum())  # each layer gets the gradient of its own loss
                optimizer.step()
            scheduler.step()
            with torch.no_grad():
                ranks = torch.stack([rank_of_class(layer(test.features), test.labels) for layer in layers])
            history.append(torch.stack([100.0 * (ranks < k).double().mean(1) for k in (1, 5)], 1))
        return torch.stack(history).cpu()

    def layers(self, features: Tensor, num_classes: int) -> nn.ModuleList:
        """Return the initial layers, one per learning rate, with equal weights."""
        with seeded('linear_training', self.seed):
            layer = nn.Linear(features.shape[1], num_classes, dtype=features.dtype)
            if self.std is not None:
                nn.init.normal_(layer.weight, std=self.std)
                nn.init.zeros_(layer.bias)
        layers = nn.ModuleList(copy.deepcopy(layer) for _ in self.lrs)
        return layers.to(features.device)


def _build(module: Any, cfg: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Build ``type`` of a module with the other keys as arguments."""
    return getattr(module, cfg['type'])(*args, **kwargs, **{key: cfg[key] for key in cfg if key != 'type'})
