"""Collectives, and models behind wrappers. One process needs no special case: each function is then the identity."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from mmengine.dist import all_gather, all_reduce, broadcast_object_list, get_rank, get_world_size
from mmengine.model import is_model_wrapper
from torch import Tensor, distributed, nn

_host_groups: list[tuple[Any, Any]] = []  # the default group of this process, and its helper


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


class _AllReduce(torch.autograd.Function):
    """Add; the gradient of a rank's part is the sum of the gradients on all ranks."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        all_reduce(total, op='sum')
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        all_reduce(gradient, op='sum')
        return gradient


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Add the tensors of all ranks, with gradient; DDP's average is right as for :func:`concat_all_gather_grad`."""
    return tensor if get_world_size() == 1 else _AllReduce.apply(tensor)


def rank_slice(batch_size: int) -> slice:
    """Return this rank's rows of a gathered tensor with ``batch_size`` rows a rank."""
    return slice(get_rank() * batch_size, (get_rank() + 1) * batch_size)


def host_group(timeout: float | None = None) -> Any:
    """Return the gloo group by which the ranks agree on what the host decides, such as to stop or to save.

    So that no accelerator has work for it, and the host does not wait for one. Gloo takes the interface that the name
    of the machine stands for, or that of ``GLOO_SOCKET_IFNAME``. All ranks make the first call at the same place.

    Args:
        timeout: Seconds that its collectives may take; for the first call. None: gloo's 30 minutes.
    """
    default = distributed.group.WORLD
    if not _host_groups or _host_groups[0][0] is not default:
        delta = None if timeout is None else timedelta(seconds=timeout)
        _host_groups[:] = [(default, distributed.new_group(backend='gloo', timeout=delta))]
    return _host_groups[0][1]


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
