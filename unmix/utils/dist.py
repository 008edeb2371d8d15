"""Collectives, and models behind wrappers. One process needs no special case: each function is then the identity."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.dist import all_gather, all_reduce, broadcast_object_list, get_rank, get_world_size
from mmengine.model import is_model_wrapper
from torch import Tensor, nn


@torch.no_grad()
def concat_all_gather(tensor: Tensor) -> Tensor:
    """Concatenate the (N, ...) tensors of all ranks in rank order, without gradient: (world_size * N, ...)."""
    if get_world_size() == 1:
        return tensor.detach()
    return torch.cat(all_gather(tensor.detach().contiguous()))


class _AllGather(torch.autograd.Function):
    """Gather; the gradient of a rank's rows is the sum of the gradients on all ranks."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = rank_slice(len(tensor))
        return torch.cat(all_gather(tensor.contiguous()))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        all_reduce(gradient, op='sum')
        return gradient[ctx.rows]


def concat_all_gather_grad(tensor: Tensor) -> Tensor:
    """Concatenate the (N, ...) tensors of all ranks in rank order, with gradient: (world_size * N, ...).

    Where every rank's loss is a part of one mean over all ranks, or that mean itself, the average over ranks that DDP
    makes of the gradients is the gradient of that mean.
    """
    return tensor if get_world_size() == 1 else _AllGather.apply(tensor)


def rank_slice(batch_size: int) -> slice:
    """Return this rank's rows of a gathered tensor with ``batch_size`` rows a rank."""
    return slice(get_rank() * batch_size, (get_rank() + 1) * batch_size)


def unwrap(model: nn.Module) -> Any:
    """Return the model inside a wrapper such as ``DistributedDataParallel``, or the model itself if there is none."""
    return model.module if is_model_wrapper(model) else model


@contextmanager
def agreed() -> Iterator[None]:
    """Raise rank 0's error in the block on all ranks, so that none waits for it for ever."""
    errors: list[Exception | None] = [None]
    try:
        yield
    except Exception as error:
        errors = [error]
    own = errors[0]
    broadcast_object_list(errors, src=0)
    if errors[0] is not None or own is not None:
        raise errors[0] or own  # type: ignore[misc]
