"""Softmax regression on features, solved to the optimum by L-BFGS."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


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

    Raises:
        ValueError: If there is no feature, or the shapes or labels do not fit.
    """
    if features.ndim != 2 or labels.shape != (len(features),) or len(features) == 0:
        raise ValueError(
            f'linear probe: features {tuple(features.shape)} and labels {tuple(labels.shape)}; expected (N, D) and '
            '(N,), with N > 0.'
        )
    smallest, largest = int(labels.min()), int(labels.max())
    num_classes = largest + 1 if num_classes is None else num_classes
    if smallest < 0 or largest >= num_classes:
        raise ValueError(f'linear probe: labels reach from {smallest} to {largest}; num_classes={num_classes}.')
    mean, std = feature_statistics(features) if statistics is None else statistics
    inputs = (features - mean) / std
    weight = features.new_zeros(features.shape[1], num_classes).requires_grad_()
    bias = features.new_zeros(num_classes).requires_grad_()
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iter,
        history_size=10,
        tolerance_grad=tolerance,
        tolerance_change=tolerance / 100,
        line_search_fn='strong_wolfe',
    )

    def objective() -> float:
        solver.zero_grad()
        loss = F.cross_entropy(inputs @ weight + bias, labels) + l2 * weight.square().sum()
        loss.backward()
        return loss  # type: ignore[return-value]  # torch annotates float, and calls float() on it

    with torch.enable_grad():
        solver.step(objective)
    return LogisticRegression(weight.detach(), bias.detach(), mean, std)
