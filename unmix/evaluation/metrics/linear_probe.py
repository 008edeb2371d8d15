"""Accuracy of a linear classifier on frozen features, fitted to the optimum."""

import numpy as np
import torch
from torch import Tensor

from unmix.evaluation.functional import feature_statistics, fit_logistic_regression
from unmix.evaluation.metrics.features import Features
from unmix.registry import METRICS
from unmix.utils.rng import generator


@METRICS.register_module()
class LinearProbe:
    """Accuracy of L2-penalised softmax regression on standardised features.

    Without a learning rate to tune, and so without a bias for or against a method. With few labels the accuracy is the
    mean over several draws of them; all features of the bank, also those without a label, give the statistics.

    Args:
        l2: Weight of the penalty ``l2 * ||weight||^2``; by default 1e-4 on all labels and 1e-2 on few.
        C: scikit-learn's inverse of it instead: ``l2 = 1 / (2 * C * N)`` for N labels.
        standardize: Whether features are brought to mean 0 and standard deviation 1; else they are taken as they are.
        labels_per_class: Labels drawn of each class, all there are where a class has fewer. None: all labels.
        draws: How often labels are drawn.
        seed: Which labels are drawn; the same for every model, so that models are compared on the same labels.
        max_iter: Iterations of L-BFGS at most.
        tolerance: Of the gradient, at which L-BFGS stops.
        solver: ``'torch'``, ``'sklearn'`` or ``'auto'``; see :func:`unmix.evaluation.fit_logistic_regression`.
        name: Prefix of the results; by default ``linear`` or ``linear_{labels_per_class}_per_class``.

    Raises:
        ValueError: If labels_per_class or draws is not positive, or both l2 and C are given.
    """

    def __init__(
        self,
        l2: float | None = None,
        C: float | None = None,
        standardize: bool = True,
        labels_per_class: int | None = None,
        draws: int = 5,
        seed: int = 0,
        max_iter: int = 100,
        tolerance: float = 1e-7,
        solver: str = 'torch',
        name: str | None = None,
    ) -> None:
        if draws < 1 or (labels_per_class is not None and labels_per_class < 1):
            raise ValueError(f'LinearProbe: labels_per_class={labels_per_class}, draws={draws}; both are at least 1.')
        if l2 is not None and C is not None:
            raise ValueError(f'LinearProbe: l2={l2} and C={C}; the one follows from the other, give one of them.')
        few = labels_per_class is not None
        self.l2 = (1e-2 if few else 1e-4) if l2 is None else l2
        self.C = C
        self.standardize = standardize
        self.labels_per_class = labels_per_class
        self.draws = draws
        self.seed = seed
        self.max_iter = max_iter
        self.tolerance = tolerance
        self.solver = solver
        self.name = name or (f'linear_{labels_per_class}_per_class' if few else 'linear')

    def __call__(self, bank: Features, test: Features) -> dict[str, float]:
        """Return ``top1`` in percent."""
        if self.labels_per_class is None:
            return {'top1': self._accuracy(bank, test, slice(None))}
        accuracies = [self._accuracy(bank, test, self.draw(bank.labels, draw)) for draw in range(self.draws)]
        return {'top1': float(np.mean(accuracies))}

    def draw(self, labels: Tensor, draw: int) -> Tensor:
        """Return the rows of the labels drawn, class by class."""
        rng = generator('label_draw', self.seed, draw)
        classes = [np.flatnonzero(labels.cpu().numpy() == c) for c in labels.unique().tolist()]
        rows = np.concatenate([rng.permutation(members)[: self.labels_per_class] for members in classes])
        return torch.from_numpy(rows).to(labels.device)

    def _accuracy(self, bank: Features, test: Features, rows: Tensor | slice) -> float:
        labels, (mean, std) = bank.labels[rows], feature_statistics(bank.features)
        classifier = fit_logistic_regression(
            bank.features[rows],
            labels,
            num_classes=int(max(bank.labels.max(), test.labels.max())) + 1,
            l2=self.l2 if self.C is None else 1 / (2 * self.C * len(labels)),
            statistics=(mean, std) if self.standardize else (torch.zeros_like(mean), torch.ones_like(std)),
            max_iter=self.max_iter,
            tolerance=self.tolerance,
            solver=self.solver,
        )
        return 100.0 * (classifier.logits(test.features).argmax(1) == test.labels).double().mean().item()
