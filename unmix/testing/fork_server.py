"""Processes with all imports done, which can use CUDA."""

import multiprocessing
import os
from multiprocessing.context import ForkServerContext


def fork_server(*preloaded: str) -> ForkServerContext:
    """Return the context whose processes are forked from a server that has imported the modules ``preloaded``.

    MMEngine asks for CUDA when it is imported. PyTorch would ask the driver, after which no fork of the server could
    use CUDA; so it is told to ask NVML, for all processes from now on.
    """
    os.environ['PYTORCH_NVML_BASED_CUDA_CHECK'] = '1'
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(list(preloaded))
    return context
