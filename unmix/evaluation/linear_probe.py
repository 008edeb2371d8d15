"""Linear classifier on frozen features: softmax regression, solved to the optimum by L-BFGS."""

import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from mmengine.dist import broadcast, get_rank
from torch import Tensor
from torch.nn import functional as F

from unmix.evaluation.accuracy import CHUNK, count_hits
from unmix.evaluation.shard import Features, Shard
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

    sharded: ClassVar[bool] = True

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

    def __call__(self, bank: Features | Shard, test: Features) -> dict[str, float]:
        """Return ``top1`` in percent.

        Args:
            bank: Labelled features, or this rank's shard of them; then all ranks call it, and get the same.
            test: Features to classify.
        """
        shard, device = Shard.of(bank), test.features.device
        num_classes = int(max(shard.all_labels.max(), test.labels.max())) + 1
        mean, std = _statistics(shard, device)
        if not self.standardize:
            mean, std = torch.zeros_like(mean), torch.ones_like(std)
        if self.labels_per_class is None:
            return {'top1': self._accuracy(shard, test, num_classes, (mean, std))}
        drawn = (shard.take(self.draw(shard.all_labels, draw)) for draw in range(self.draws))
        return {'top1': float(np.mean([self._accuracy(few, test, num_classes, (mean, std)) for few in drawn]))}

    def draw(self, labels: Tensor, draw: int) -> Tensor:
        """Return the rows of the labels drawn, class by class."""
        rng = generator('label_draw', self.seed, draw)
        host = labels.cpu().numpy()
        classes = [np.flatnonzero(host == c) for c in np.unique(host)]
        rows = np.concatenate([rng.permutation(members)[: self.labels_per_class] for members in classes])
        return torch.from_numpy(rows).to(labels.device)

    def _accuracy(self, bank: Shard, test: Features, num_classes: int, statistics: tuple[Tensor, Tensor]) -> float:
        l2 = (1e-4 if self.labels_per_class is None else 1e-2) if self.l2 is None else self.l2
        classifier = _fit(
            bank,
            num_classes,
            l2 if self.C is None else 1 / (2 * self.C * len(bank.all_labels)),
            statistics,
            self.max_iter,
            self.tolerance,
            self.solver,
        )
        hits = count_hits(classifier.logits, test.features, test.labels, num_classes, [1])
        return 100.0 * (int(hits) / len(test.labels))


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
    if features.ndim != 2 or labels.shape != (len(features),) or len(features) == 0:
        raise ValueError(
            f'linear probe: features {tuple(features.shape)} and labels {tuple(labels.shape)}; expected (N, D) and '
            '(N,), with N > 0.'
        )
    bank = Shard.of(Features(features, labels))
    statistics = _statistics(bank, features.device) if statistics is None else statistics
    return _fit(bank, num_classes, l2, statistics, max_iter, tolerance, solver)


def _fit(
    bank: Shard,
    num_classes: int | None,
    l2: float,
    statistics: tuple[Tensor, Tensor],
    max_iter: int,
    tolerance: float,
    solver: str,
) -> LogisticRegression:
    """Fit on the rows of all ranks, on the device of the statistics; see :func:`fit_logistic_regression`."""
    if solver not in ('torch', 'sklearn', 'auto'):
        raise ValueError(f"linear probe: solver is {solver!r}; it is 'torch', 'sklearn' or 'auto'.")
    check_labels(bank.all_labels, num_classes, 'linear probe')
    num_classes = int(bank.all_labels.max()) + 1 if num_classes is None else num_classes
    size = len(bank.all_labels) * bank.features.shape[1] * num_classes
    small = size <= SMALL and statistics[0].device.type == 'cpu'
    solve = _solve_on_host if solver == 'sklearn' or (solver == 'auto' and small) else _solve
    return LogisticRegression(*solve(bank, statistics, num_classes, l2, max_iter, tolerance), *statistics)


def _statistics(bank: Shard, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return :func:`feature_statistics` of all rows; where they are not all on the device, by sums in float64."""
    if not bank.spread and bank.features.device == device:
        return feature_statistics(bank.features)
    total, blocks = len(bank.all_labels), torch.split(bank.features, max(1, CHUNK // bank.features.shape[1]))
    center = torch.zeros(bank.features.shape[1], dtype=torch.double, device=device)
    sums = [torch.zeros_like(center), torch.zeros_like(center)]
    for power in (1, 2):
        for rows in blocks:
            sums[power - 1] += (rows.to(device).double() - center).pow_(power).sum(0)
        bank.sum(sums[power - 1])
        if power == 1:
            center = sums[0] / total
    std = (sums[1] / max(1, total - 1)).sqrt() + 1e-6
    return center.to(bank.features.dtype), std.to(bank.features.dtype)


def _solve(
    bank: Shard, statistics: tuple[Tensor, Tensor], num_classes: int, l2: float, max_iter: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """L-BFGS; with several ranks it runs on rank 0, and all ranks add up loss and gradient of their rows."""
    mean, std = statistics
    weight = mean.new_zeros(len(mean), num_classes, dtype=bank.features.dtype).requires_grad_()
    bias = weight.new_zeros(num_classes).requires_grad_()
    solver: Any = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iter,
        history_size=10,
        tolerance_grad=tolerance,
        tolerance_change=tolerance / 100,
        line_search_fn='strong_wolfe',
    )
    total, labels = len(bank.all_labels), bank.labels.to(mean.device)
    size = max(1, CHUNK // max(len(mean), num_classes))

    def share() -> Tensor:
        """Loss of all rows, without the penalty; the gradients are those of it."""
        weight.grad, bias.grad, losses = torch.zeros_like(weight), torch.zeros_like(bias), weight.new_zeros(())
        for rows, truth in zip(torch.split(bank.features, size), torch.split(labels, size), strict=True):
            inputs = (rows.to(mean.device) - mean).div_(std)
            loss = F.cross_entropy(inputs @ weight + bias, truth, reduction='sum') / total
            torch.autograd.backward(loss)
            losses += loss.detach()
        bank.sum(weight.grad, bias.grad, losses)
        return losses

    def follow(going: bool) -> bool:
        """Take the weights of rank 0; return whether it needs another loss."""
        if bank.spread:
            state = torch.cat([weight.detach().flatten(), bias.detach(), bias.new_tensor([float(going)])])
            broadcast(state, src=0)
            with torch.no_grad():
                weight.copy_(state[: weight.numel()].view_as(weight))
                bias.copy_(state[weight.numel() : -1])
            going = bool(state[-1])
        return going

    def objective() -> Tensor:
        follow(True)
        loss = share()
        penalty = l2 * weight.square().sum()
        torch.autograd.backward(penalty)
        return loss + penalty.detach()

    with torch.enable_grad():
        if not bank.spread or get_rank() == 0:
            solver.step(objective)
            follow(False)
        else:
            while follow(True):
                share()
    return weight.detach(), bias.detach()


def _solve_on_host(
    bank: Shard, statistics: tuple[Tensor, Tensor], num_classes: int, l2: float, max_iter: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """scikit-learn's L-BFGS on the host; each rank gets all rows, and solves the same."""
    rows = replace(bank, features=bank.features.cpu()).whole()
    assert rows is not None
    inputs, labels = (rows.features - statistics[0].cpu()).div_(statistics[1].cpu()), rows.labels

    from sklearn.exceptions import ConvergenceWarning  # takes a second, and most runs do not need it
    from sklearn.linear_model import LogisticRegression as Solver

    present = torch.unique(labels)
    weight = inputs.new_zeros(inputs.shape[1], num_classes)
    bias = inputs.new_full((num_classes,), -torch.inf)
    if len(present) == 1:
        bias[present] = 0
        return weight.to(statistics[0]), bias.to(statistics[0])
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
    return weight.to(statistics[0]), bias.to(statistics[0])
