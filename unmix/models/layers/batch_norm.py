"""Batch normalisation in groups, and the replay of an update of running statistics."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class SplitBatchNorm(nn.BatchNorm2d):
    """Normalise ``num_splits`` groups of the batch separately, as S GPUs would; sample n is in group n mod S.

    Each group updates the running statistics from the common old value, and the results are averaged. In evaluation it
    is ordinary batch normalisation. From the MoCo demo on CIFAR; ``num_batches_tracked`` stays 0 as there.

    Args:
        num_features: Channels C.
        num_splits: Groups S; it must divide the batch.
        adjacent: Whether the samples of a group lie next to each other, as :func:`group_samples` puts them; group s are
            the samples s N / S to (s + 1) N / S. That form keeps ``channels_last``, the other one does not.

    Raises:
        ValueError: In training, if ``num_splits`` does not divide the batch.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, num_splits: int, adjacent: bool = False, **kwargs: object) -> None:
        super().__init__(num_features, **kwargs)  # type: ignore[arg-type]
        self.num_splits = num_splits
        self.adjacent = adjacent

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` (N, C, H, W)."""
        if not self.training:
            return super().forward(x)
        n, c, h, w = x.shape
        check_splits(n, self.num_splits)
        if self.adjacent:
            return self._normalize_adjacent(x)
        grouped = x.contiguous().view(n // self.num_splits, self.num_splits * c, h, w)
        statistics = self.running_mean.new_zeros(2, self.num_splits * c)
        weight, bias = self.weight.repeat(self.num_splits), self.bias.repeat(self.num_splits)
        # With a momentum of 1 it leaves the statistics of the groups.
        y = F.batch_norm(grouped, statistics[0], statistics[1], weight, bias, True, 1.0, self.eps)
        self._update(statistics.view(2, self.num_splits, c))
        return y.view(n, c, h, w)

    def _normalize_adjacent(self, x: Tensor) -> Tensor:
        statistics = self.running_mean.new_zeros(2, self.num_splits, x.shape[1])
        groups = [
            F.batch_norm(group, mean, var, self.weight, self.bias, True, 1.0, self.eps)
            for group, mean, var in zip(x.chunk(self.num_splits), *statistics, strict=True)
        ]
        self._update(statistics)
        return torch.cat(groups)

    def _update(self, statistics: Tensor) -> None:
        """Move the running statistics by means and variances of the groups (2, S, C): to the mean of their updates."""
        running = [self.running_mean, self.running_var]
        torch._foreach_lerp_(running, list(statistics.mean(1)), self.momentum or 0.0)


def check_splits(batch_size: int, num_splits: int) -> None:
    """Check that a batch can be split into groups.

    Raises:
        ValueError: If it cannot.
    """
    if batch_size % num_splits:
        raise ValueError(
            f'A batch of {batch_size} cannot be split into num_splits={num_splits} groups. Set backbone.num_splits to '
            'a divisor of the batch size of one process (train_dataloader.batch_size, with drop_last=True), and with '
            "model.unmix.pairs='once' of half of it."
        )


def group_samples(x: Tensor, num_splits: int) -> Tensor:
    """Put the samples of a group of :class:`SplitBatchNorm`, n mod S, next to each other: (N, ...).

    Raises:
        ValueError: If ``num_splits`` does not divide the batch.
    """
    check_splits(len(x), num_splits)
    return x.unflatten(0, (-1, num_splits)).transpose(0, 1).flatten(0, 1)


def ungroup_samples(x: Tensor, num_splits: int) -> Tensor:
    """Undo :func:`group_samples`."""
    return x.unflatten(0, (num_splits, -1)).transpose(0, 1).flatten(0, 1)


class BatchNormReplay:
    """Repeats the update of running statistics of one forward pass without the pass.

    An update is ``r <- (1 - a) r + a s``; the batch's statistics ``s`` follow from ``r`` before and after the pass.
    Use it as a context manager around the pass, then call :meth:`replay`.

    Args:
        modules: Whose batch normalisation layers are watched.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        layers = (layer for module in modules for layer in module.modules() if isinstance(layer, _BatchNorm))
        self.layers = [layer for layer in layers if layer.track_running_stats and layer.momentum]

    def _statistics(self) -> list[tuple[float, list[Tensor], Tensor]]:
        """Momentum, running mean and variance, and count of each layer."""
        return [
            (float(layer.momentum or 0), [layer.running_mean, layer.running_var], layer.num_batches_tracked)  # type: ignore[list-item,misc]
            for layer in self.layers
        ]

    def __enter__(self) -> BatchNormReplay:
        self._before = [([b.clone() for b in buffers], count.clone()) for _, buffers, count in self._statistics()]
        return self

    def __exit__(self, *exc: object) -> None:
        self._batches = [
            ([(new - (1 - a) * old) / a for old, new in zip(olds, news, strict=True)], count - old_count)
            for (olds, old_count), (a, news, count) in zip(self._before, self._statistics(), strict=True)
        ]

    @torch.no_grad()
    def replay(self) -> None:
        """Update the running statistics once more with those of the pass that was watched."""
        for (batch, counted), (a, buffers, count) in zip(self._batches, self._statistics(), strict=True):
            for buffer, statistic in zip(buffers, batch, strict=True):
                buffer.lerp_(statistic, a)
            count += counted
