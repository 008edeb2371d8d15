"""Run a function on several ranks (gloo, CPU); ranks are forked from a server that has torch loaded."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import start_processes

from unmix.testing.fork_server import fork_server


def run_ranks(function: Callable[..., None], world_size: int, directory: Path, *args: object) -> None:
    """Call ``function(rank, *args)`` on every rank of a process group; it is a module's top-level function."""
    fork_server('torch', 'mmengine.runner', 'unmix.testing')
    store = directory / f'store-{function.__name__}'
    store.unlink(missing_ok=True)
    start: Callable[..., object] = start_processes
    start(_start, (function, world_size, str(store.absolute()), args), nprocs=world_size, start_method='forkserver')


def without_batch_norm(model: nn.Module) -> nn.Module:
    """Take every BatchNorm out of ``model``: its statistics are those of a rank, so ranks differ from one process."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            parent, _, child = name.rpartition('.')
            setattr(model.get_submodule(parent), child, nn.Identity())
    return model


def _start(rank: int, function: Callable[..., None], world_size: int, store: str, args: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=world_size)
    function(rank, *args)
    distributed.destroy_process_group()
