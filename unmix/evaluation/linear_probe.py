"""Linear classifier on frozen features: softmax regression, solved to the optimum by L-BFGS."""

import warnings
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unmix.evaluation.accuracy import rank_of_class
from unmix.evaluation.extraction import Features
from unmix.registry import METRICS
from unmix.utils.labels import check_labels
from unmix.utils.rng import generator

SMALL = 2**22  # features times classes up to which scikit-learn on the host is no slower than torch


@METRICS.register_module()
@dataclass(eq=False)
class LinearProbe:
    """Accuracy of L2-penalised softmax regression on standardised features.

    It has no learning rate to tune, and so no bias for or against a method. With few labels the accuracy is the mean
    over several draws of labels; mean and standard deviation are those of all features of the bank.

    Args:
        l2: Weight of the penalty ``l2 * ||weight||^2``; by default 1e-4 on all labels and 1e-2 on few.
        C: scikit-learn's inverse of it instead: ``l2 = 1 / (2 * C * N)`` for N labels.
        standardize: Whether features are brought to mean 0 and standard deviation 1; else they are taken as they are.
        labels_per_class: Labels drawn of each class; a class with fewer gives all it has. None: all labels.
        draws: How often labels are drawn.
        seed: Of the draws; it alone decides which labels are drawn, so that models are compared on the same labels.
        max_iter: Iterations of L-BFGS at most.
        tolerance: Of the gradient, at which L-BFGS stops.
        solver: ``'torch'``, ``'sklearn'`` or ``'auto'``; see :func:`fit_logistic_regression`.
        name: Prefix of the results; by default ``linear`` or ``linear_{labels_per_class}_per_class``.

    Raises:
        ValueError: If labels_per_class or draws is not positive, or both l2 and C are given.
    """

    l2: float | None = None
    C: float | None = None
    standardize: bool = True
    labels_per_class: int | None = None
    draws: int = 5
    seed: int = 0
    max_iter: int = 100
    tolerance: float = 1e-7
    solver: str = 'torch'
    name: str | None = None

    def __post_init__(self) -> None:
        few = self.labels_per_class
        if self.draws < 1 or (few is not None and few < 1):
            raise ValueError(f'LinearProbe: labels_per_class={few}, draws={self.draws}; both are at least 1.')
        if self.l2 is not None and self.C is not None:
            raise ValueError(f'LinearProbe: l2={self.l2} and C={self.C}; one follows from the other, give one of them.')
        self.name = self.name or ('linear' if few is None else f'linear_{few}_per_class')

    def __call__(self, bank: Features, test: Features) -> dict[str, float]:
        """Return ``top1`` in percent."""
        if self.labels_per_class is None:
            return {'top1': self._accuracy(bank, test, slice(None))}
        accuracies = [self._accuracy(bank, test, self.draw(bank.labels, draw)) for draw in range(self.draws)]
        return {'top1': float(np.mean(accuracies))}

    def draw(self, labels: Tensor, draw: int) -> Tensor:
        """Return the rows of the labels drawn, class by class."""
        rng = generator('label_draw', self.seed, draw)
        host = labels.cpu().numpy()
        classes = [np.flatnonzero(host == c) for c in np.unique(host)]
        rows = np.concatenate([rng.permutation(members)[: self.labels_per_class] for members in classes])
        return torch.from_numpy(rows).to(labels.device)

    def _accuracy(self, bank: Features, test: Features, rows: Tensor | slice) -> float:
        labels, (mean, std) = bank.labels[rows], feature_statistics(bank.features)
        l2 = (1e-4 if self.labels_per_class is None else 1e-2) if self.l2 is None else self.l2
        classifier = fit_logistic_regression(
            bank.features[rows],
            labels,
            num_classes=int(max(bank.labels.max(), test.labels.max())) + 1,
            l2=l2 if self.C is None else 1 / (2 * self.C * len(labels)),
            statistics=(mean, std) if self.standardize else (torch.zeros_like(mean), torch.ones_like(std)),
            max_iter=self.max_iter,
            tolerance=self.tolerance,
            solver=self.solver,
        )
        rank = rank_of_class(classifier.logits(test.features), test.labels)
        return 100.0 * (rank == 0).double().mean().item()


class LogisticRegression(NamedTuple):
    """A fitted classifier.

    Attributes:
        weight: (D, C), for standardised features.
        bias: (C,).
        mean: (D,) subtracted from the features.
        std: (D,) that they are then divided by.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits (M, C) of features (M, D)."""
        return (features - self.mean) / self.std @ self.weight + self.bias


def feature_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (D,) of features (N, D), the latter plus 1e-6: a feature may be constant."""
    return features.mean(0), features.std(0, correction=min(1, len(features) - 1)) + 1e-6


def fit_logistic_regression(
    features: Tensor,
    labels: Tensor,
    num_classes: int | None = None,
    l2: float = 1e-4,
    statistics: tuple[Tensor, Tensor] | None = None,
    max_iter: int = 100,
    tolerance: float = 1e-7,
    solver: str = 'torch',
) -> LogisticRegression:
    """Minimise ``mean cross-entropy + l2 * ||weight||^2`` over weight and bias, starting at zero.

    The problem is convex, so the result does not depend on a learning rate or a seed. scikit-learn's
    ``LogisticRegression`` minimises the same for ``C = 1 / (2 * l2 * N)``.

    Args:
        features: (N, D), float32 or float64; the arithmetic stays in that type.
        labels: (N,) integers in [0, num_classes).
        num_classes: C; by default the largest label plus one.
        l2: Weight of the penalty; the bias is free.
        statistics: Mean and std (D,) to standardise by; by default those of ``features``.
        max_iter: Iterations of L-BFGS at most; on weakly penalised problems stopping there regularises a little.
        tolerance: Stop once no component of the gradient exceeds it, or a step moves the loss by less than 1 % of it.
        solver: ``'torch'``, on the device of the features; ``'sklearn'``, scikit-learn's L-BFGS on the host; or
            ``'auto'``: scikit-learn's on small problems, up to 2**22 numbers of features times classes.

    Raises:
        ValueError: If there is no feature, or the shapes, labels or the solver do not fit.
    """
    if solver not in ('torch', 'sklearn', 'auto'):
        raise ValueError(f"linear probe: solver is {solver!r}; it is 'torch', 'sklearn' or 'auto'.")
    if features.ndim != 2 or labels.shape != (len(features),) or len(features) == 0:
        raise ValueError(
            f'linear probe: features {tuple(features.shape)} and labels {tuple(labels.shape)}; expected (N, D) and '
            '(N,), with N > 0.'
        )
    check_labels(labels, num_classes, 'linear probe')
    num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
    mean, std = feature_statistics(features) if statistics is None else statistics
    inputs = (features - mean) / std
    small = features.numel() * num_classes <= SMALL and features.device.type == 'cpu'
    solve = _solve_on_host if solver == 'sklearn' or (solver == 'auto' and small) else _solve
    return LogisticRegression(*solve(inputs, labels, num_classes, l2, max_iter, tolerance), mean, std)


def _solve(
    inputs: Tensor, labels: Tensor, num_classes: int, l2: float, max_iter: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    weight = inputs.new_zeros(inputs.shape[1], num_classes).requires_grad_()
    bias = inputs.new_zeros(num_classes).requires_grad_()
    solver: Any = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iter,
        history_size=10,
        tolerance_grad=tolerance,
        tolerance_change=tolerance / 100,
        line_search_fn='strong_wolfe',
    )

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(inputs @ weight + bias, labels) + l2 * weight.square().sum()
        torch.autograd.backward(loss)
        return loss

    with torch.enable_grad():
        solver.step(objective)
    return weight.detach(), bias.detach()


def _solve_on_host(
    inputs: Tensor, labels: Tensor, num_classes: int, l2: float, max_iter: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    from sklearn.exceptions import ConvergenceWarning  # takes a second, and most runs do not need it
    from sklearn.linear_model import LogisticRegression as Solver

    present = torch.unique(labels)
    weight = inputs.new_zeros(inputs.shape[1], num_classes)
    bias = inputs.new_full((num_classes,), -torch.inf)
    if len(present) == 1:
        bias[present] = 0
        return weight, bias
    # Of two classes scikit-learn has one row of weights, where softmax has two of half the size: half the penalty.
    binary = len(present) == 2
    solver = Solver(C=(2 if binary else 1) / (2 * l2 * len(inputs)), tol=tolerance, max_iter=max_iter)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)  # max_iter is meant to stop it
        solver.fit(inputs.cpu().numpy(), labels.cpu().numpy())
    found = [torch.as_tensor(x).to(inputs) for x in (solver.coef_.T, solver.intercept_)]
    if binary:
        found = [torch.stack([-x[..., 0] / 2, x[..., 0] / 2], -1) for x in found]
    weight[:, present], bias[present] = found
    return weight, bias
