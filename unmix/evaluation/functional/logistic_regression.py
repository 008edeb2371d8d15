"""Softmax regression on features, solved to the optimum by L-BFGS."""

import warnings
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from unmix.utils.labels import check_labels

SMALL = 2**22  # features times classes up to which scikit-learn on the host is no slower than torch


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
    return weight.detach(), bias.detach()


def _solve_on_host(
    inputs: Tensor, labels: Tensor, num_classes: int, l2: float, max_iter: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    from sklearn.exceptions import ConvergenceWarning  # takes a second, and most runs do not need it
    from sklearn.linear_model import LogisticRegression as Solver

    present = labels.unique()
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
