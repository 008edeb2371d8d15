"""Cross-entropy over classes that are divided among the ranks."""

from collections.abc import Callable
from typing import Any

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from torch import Tensor

from unmix.utils.dist import concat_all_gather, concat_all_gather_grad, rank_slice


class _Sum(torch.autograd.Function):
    """Sum a tensor over the ranks. The gradient is summed too, because each rank's loss depends on all summands."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        all_reduce(total, op='sum')
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        all_reduce(total, op='sum')
        return total


def sharded_cross_entropy(query: Tensor, target: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean cross-entropy of this rank's crops over the classes of all ranks.

    Of R ranks, rank r has the classes r, r + R, r + 2R, ... Each rank computes the logits of its own classes for the
    crops of all ranks. The ranks exchange the features of the crops and three numbers per crop: maximum, sum of
    exponentials, logit of the target. The gradients averaged over the ranks, as DDP does, equal those of the
    cross-entropy over all classes on each rank.

    Args:
        query: This rank's crops (N, V, D).
        target: Classes of the samples (N,).
        logits: Returns the logits (R * N, V, C) of this rank's C classes for crops (R * N, V, D).

    Returns:
        The mean over this rank's N * V crops, a scalar.
    """
    scores = logits(concat_all_gather_grad(query))
    labels = concat_all_gather(target)
    top = scores.detach().amax(2)
    all_reduce(top, op='max')
    total = _Sum.apply((scores - top[:, :, None]).exp().sum(2))
    mine = labels % get_world_size() == get_rank()
    place = torch.where(mine, labels // get_world_size(), 0)
    own = scores.gather(2, place[:, None, None].expand(-1, scores.shape[1], 1))[:, :, 0]
    own = _Sum.apply(torch.where(mine[:, None], own, 0.0))
    losses: Tensor = top + total.log() - own
    return losses[rank_slice(len(query))].mean()
