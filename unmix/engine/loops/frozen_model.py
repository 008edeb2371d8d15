"""A model as it is for the length of an evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.dist import broadcast, get_world_size
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; after it each module is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def statistics_of_rank_zero(model: nn.Module) -> Iterator[None]:
    """All ranks encode with the BatchNorm statistics of rank 0, those of checkpoints; then they are as before."""
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    buffers = [buffer for layer in layers for buffer in layer.buffers()] if get_world_size() > 1 else []
    own = [buffer.clone() for buffer in buffers]
    for buffer in buffers:
        broadcast(buffer, src=0)
    try:
        yield
    finally:
        for buffer, value in zip(buffers, own, strict=True):
            buffer.copy_(value)
