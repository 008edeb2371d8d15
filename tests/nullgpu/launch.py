"""Start Python programs on the null GPU."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def start(
    arguments: Sequence[str],
    libraries: Path,
    ranks: int = 1,
    environment: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> list[subprocess.Popen[str]]:
    """Start a Python program, once for each rank; return the processes.

    Kernels that are compiled at run time (Triton, NVRTC) need a driver: PyTorch's own of this kind are switched off.

    Args:
        arguments: A script, or ``-m`` and a module, and its arguments.
        libraries: Folder that :func:`build.build` has filled.
        ranks: Number of processes and devices. From two on, the variables of ``init_process_group('nccl')`` are set.
        environment: Further variables.
        **kwargs: For ``subprocess.Popen``.
    """
    variables = {'OMP_NUM_THREADS': '1', **os.environ, **(environment or {})} | dict(
        CUDA_VISIBLE_DEVICES=','.join(map(str, range(ranks))),
        NULLGPU_BUILD=str(libraries),
        NULLGPU_COUNT=str(ranks),
        LD_PRELOAD=str(libraries / 'libnullgpu.so'),
        LD_LIBRARY_PATH=_before(libraries, 'LD_LIBRARY_PATH'),
        PYTHONPATH=_before(ROOT, 'PYTHONPATH'),
        CUDA_MODULE_LOADING='LAZY',
        PYTORCH_NO_CUDA_MEMORY_CACHING='1',
        TORCH_DISABLE_NATIVE_JIT='1',
    )
    if ranks > 1:
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            variables |= dict(WORLD_SIZE=str(ranks), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free.getsockname()[1]))
        variables |= dict(
            GLOO_SOCKET_IFNAME='lo', TORCH_NCCL_ASYNC_ERROR_HANDLING='0', TORCH_NCCL_ENABLE_MONITORING='0'
        )
    processes = []
    for rank in range(ranks):
        own = dict(RANK=str(rank), LOCAL_RANK=str(rank)) if ranks > 1 else {}
        command = [sys.executable, '-m', 'tests.nullgpu.program', *arguments]
        processes.append(subprocess.Popen(command, env=variables | own, text=True, **kwargs))
    return processes


def _before(folder: Path, variable: str) -> str:
    """Return a search path that begins with a folder."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get(variable)]))
