"""Runs a test's function on several ranks (gloo, CPU); ranks are forked from a server that has torch loaded."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed, nn
from torch import multiprocessing as mp


def run_ranks(function: Callable, world_size: int, directory: Path, *args: object) -> None:
    """Call ``function(rank, *args)`` on every rank of a process group; it is a module's top-level function."""
    mp.get_context('forkserver').set_forkserver_preload(['torch', 'mmengine.runner', 'unmix'])
    store = directory / f'store-{function.__name__}'
    store.unlink(missing_ok=True)
    mp.start_processes(
        _start, (function, world_size, str(store), args), nprocs=world_size, start_method='forkserver'
    )  # fmt: skip


def without_batch_norm(model: nn.Module) -> nn.Module:
    """Take every BatchNorm out of ``model``: its statistics are those of a rank, so ranks differ from one process."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            parent, _, child = name.rpartition('.')
            setattr(model.get_submodule(parent), child, nn.Identity())
    return model


def _start(rank: int, function: Callable, world_size: int, store: str, args: tuple) -> None:
    torch.set_num_threads(1)
    file_store = distributed.FileStore(store, world_size)
    distributed.init_process_group('gloo', store=file_store, rank=rank, world_size=world_size)
    function(rank, *args)
    distributed.destroy_process_group()
