"""Accuracy of a linear classifier that is trained on frozen features, at several learning rates at once."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.dist import get_rank, get_world_size
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.evaluation.accuracy import count_hits
from unmix.evaluation.shard import Features, Shard
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

    sharded: ClassVar[bool] = True

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

    def __call__(self, bank: Features | Shard, test: Features) -> dict[str, float]:
        """Return accuracies in percent.

        ``top1`` and, with more than 5 classes, ``top5`` are those after the last epoch, ``best_top1`` and
        ``best_epoch`` those of the best epoch on the test set. With several learning rates each has these results as
        ``NAME_lr0.1/top1``, ``top1`` is the best of the last accuracies, and ``lr`` is its rate.

        Args:
            bank: Labelled features, or this rank's shard of them; then all ranks call it, and get the same.
            test: Features to classify.
        """
        num_classes = int(max(Shard.of(bank).all_labels.max(), test.labels.max())) + 1
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

    def train(self, bank: Features | Shard, test: Features, num_classes: int) -> Tensor:
        """Train all layers; return top-1 and top-5 on the test set after each epoch: (epochs, learning rates, 2).

        Each rank computes the gradient of its rows of a batch, and tests a share of the images.
        """
        shard, device = Shard.of(bank), test.features.device
        layers = self.layers(test.features, num_classes)
        groups = [dict(params=list(layer.parameters()), lr=lr) for layer, lr in zip(layers, self.lrs, strict=True)]
        optimizer = _build(torch.optim, self.optimizer, groups, lr=self.lrs[0])
        scheduler = _build(torch.optim.lr_scheduler, self.scheduler, optimizer)
        rng = generator('linear_training', self.seed)
        labels, history, total = shard.labels, [], len(shard.all_labels)
        share = slice(get_rank(), None, get_world_size()) if shard.spread else slice(None)
        for _ in range(self.epochs):
            order = shard.local(torch.from_numpy(rng.permutation(total)))
            batches = torch.split(order, self.batch_size)
            own = order[order >= 0].to(labels.device)
            shares = torch.split(own, [int((batch >= 0).sum()) for batch in batches])
            for batch, rows in zip(batches, shares, strict=True):
                inputs, truth = shard.features[rows].to(device), labels[rows].to(device)
                losses = [F.cross_entropy(layer(inputs), truth, reduction='sum') / len(batch) for layer in layers]
                optimizer.zero_grad()
                torch.autograd.backward(torch.stack(losses).sum())  # each layer gets the gradient of its own loss
                shard.sum(*(parameter.grad for parameter in layers.parameters()))
                optimizer.step()
            scheduler.step()
            hits = [
                count_hits(layer, test.features[share], test.labels[share], num_classes, (1, 5)) for layer in layers
            ]
            history.append(torch.stack(hits))
        found = torch.stack(history)
        shard.sum(found)
        return 100.0 * (found.cpu().double() / len(test.labels))

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
