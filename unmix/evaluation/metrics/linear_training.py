"""Accuracy of a linear classifier that is trained on frozen features, at several learning rates at once."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.evaluation.metrics.features import Features
from unmix.registry import METRICS
from unmix.utils.rng import generator, seeded


@METRICS.register_module()
class LinearTraining:
    """Accuracy of a linear layer trained by a gradient method on features that were computed once.

    ``mean cross-entropy(W x + b)`` over batches of a fresh permutation an epoch; a smaller last batch is used too. The
    default is the linear evaluation of htdt's `W-MSE <https://arxiv.org/abs/2007.06346>`_ repository (there "sgd"):
    Adam, 500 epochs of batches of 1000, the rate falling from 1e-2 to 1e-6 by a factor an epoch. Each learning rate has
    a layer of its own; all of them start alike and see the same batches.

    Args:
        lr: Learning rate, or several.
        epochs: Passes over the features.
        batch_size: Features of a step.
        optimizer: Name in ``torch.optim`` and arguments, without the rate.
        scheduler: Name in ``torch.optim.lr_scheduler`` and arguments; it steps once an epoch. None: a constant rate.
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
        self.optimizer = dict(optimizer or dict(type='Adam', weight_decay=5e-6))
        self.scheduler = scheduler

    def __call__(self, bank: Features, test: Features) -> dict[str, float]:
        """Return accuracies in percent.

        ``top1`` and, with more than 5 classes, ``top5`` are those after the last epoch, ``best_top1`` and
        ``best_epoch`` those of the best epoch on the test set. Of several learning rates each has them as
        ``NAME_lr0.1/top1``, and the best of the last accuracies is ``top1``, its rate ``lr``.
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
        optimizer, scheduler = self.solver(layers)
        rng = generator('linear_training', self.seed)
        history = []
        for _ in range(self.epochs):
            order = torch.from_numpy(rng.permutation(len(bank.labels))).to(bank.labels.device)
            for rows in order.split(self.batch_size):
                self.step(layers, optimizer, bank.features[rows], bank.labels[rows])
            if scheduler is not None:
                scheduler.step()
            with torch.no_grad():
                history.append(torch.stack([_accuracies(layer(test.features), test.labels) for layer in layers]))
        return torch.stack(history).cpu()

    def layers(self, features: Tensor, num_classes: int) -> nn.ModuleList:
        """Return the initial layers, one a learning rate, all the same."""
        with seeded('linear_training', self.seed):
            layer = nn.Linear(features.shape[1], num_classes, dtype=features.dtype)
            if self.std is not None:
                nn.init.normal_(layer.weight, std=self.std)
                nn.init.zeros_(layer.bias)
        layers = nn.ModuleList(copy.deepcopy(layer) for _ in self.lrs)
        return layers.to(features.device)

    def solver(self, layers: nn.ModuleList) -> tuple[torch.optim.Optimizer, Any]:
        """Return the optimiser, a group a layer, and the scheduler or None."""
        cfg = dict(self.optimizer)
        groups = [dict(params=list(layer.parameters()), lr=lr) for layer, lr in zip(layers, self.lrs, strict=True)]
        optimizer = getattr(torch.optim, cfg.pop('type'))(groups, lr=self.lrs[0], **cfg)
        if self.scheduler is None:
            return optimizer, None
        cfg = dict(self.scheduler)
        return optimizer, getattr(torch.optim.lr_scheduler, cfg.pop('type'))(optimizer, **cfg)

    def step(self, layers: nn.ModuleList, optimizer: torch.optim.Optimizer, features: Tensor, labels: Tensor) -> None:
        """Take one step of each layer; the sum over layers has the gradient of each of them on its own."""
        optimizer.zero_grad()
        torch.stack([F.cross_entropy(layer(features), labels) for layer in layers]).sum().backward()
        optimizer.step()


def _accuracies(scores: Tensor, labels: Tensor) -> Tensor:
    """Share of images, in percent, whose class is the first, and among the first five: (2,), on the device."""
    own = scores.gather(1, labels[:, None])
    smaller = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    rank = ((scores > own) | ((scores == own) & smaller)).sum(1)
    return torch.stack([100.0 * (rank < k).double().mean() for k in (1, 5)])
