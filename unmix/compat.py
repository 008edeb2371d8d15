"""One behaviour on every distribution of MMEngine: ``mmengine``, ``onedl-mmengine`` or a source checkout."""

import datetime
import importlib.util
import os
import os.path as osp
import subprocess
import warnings
from functools import lru_cache
from importlib import metadata
from itertools import chain
from typing import Any

import mmengine.config.config
import mmengine.hub.hub
import mmengine.utils.package_utils
import torch
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.device import get_device
from mmengine.registry import MODEL_WRAPPERS

from unmix.checkpoint_loading import register_safe_loaders
from unmix.latest_checkpoint import register_safe_files

_yapf = mmengine.config.config.FormatCode
_SAME_IMPORT_NAME = (('mmengine', 'onedl-mmengine'), ('mmcv', 'mmcv-lite', 'onedl-mmcv'))


def install() -> None:
    """Apply the process-wide changes that the docstring of :mod:`unmix` lists. Harmless when called again."""
    warn_if_overwritten()
    MODULE2PACKAGE.setdefault('unmix', 'unmix')
    # Each module that imported the two functions by name has to be told.
    for module in (mmengine.utils.package_utils, mmengine.utils, mmengine.config.config, mmengine.hub.hub):
        for function in (is_installed, get_installed_path):
            if hasattr(module, function.__name__):
                setattr(module, function.__name__, function)
    mmengine.config.config.FormatCode = format_code
    register_safe_loaders()
    register_safe_files()


def format_code(text: str, style_config: dict[str, Any], **kwargs: Any) -> tuple[str, bool]:
    """Format Python code as yapf's function, but the same code only once.

    MMEngine formats the config anew for each checkpoint, which takes 40 ms, as long as a step of the quickstart.
    """
    return _format_once(text, tuple(style_config.items()), tuple(kwargs.items()))


@lru_cache(maxsize=8)
def _format_once(text: str, style: tuple, options: tuple) -> tuple[str, bool]:
    return _yapf(text, style_config=dict(style), **dict(options))


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def flavour() -> str:
    """Which MMEngine is installed: 'official', 'onedl', 'both' (broken), or 'source' (no distribution at all)."""
    official, onedl = (_installed(name) for name in _SAME_IMPORT_NAME[0])
    return 'both' if official and onedl else 'official' if official else 'onedl' if onedl else 'source'


def warn_if_overwritten() -> None:
    """Warn about distributions that hold the same files: the last one installed wins, and removing one breaks both."""
    for names in _SAME_IMPORT_NAME:
        found = [name for name in names if _installed(name)]
        if len(found) > 1:
            warnings.warn(
                f'{" and ".join(found)} are installed together, and each overwrites files of the other. Keep one pair: '
                f'pip uninstall -y {" ".join(chain(*_SAME_IMPORT_NAME))}, then pip install either "mmengine mmcv-lite" '
                'or "onedl-mmengine onedl-mmcv"',
                stacklevel=3,
            )


def is_installed(package: str) -> bool:
    """Whether ``package`` is a distribution or can be imported; MMEngine 0.10.7 needs ``pkg_resources`` to say so."""
    return _installed(package) or _folder(package) is not None


def get_installed_path(package: str) -> str:
    """Folder of a package, given its import name or the name of its distribution; right for editable installs too.

    Raises:
        ModuleNotFoundError: There is no such package.
    """
    folder = _folder(package)
    if folder is None and _installed(package):  # mmsegmentation -> mmseg
        top_level = metadata.distribution(package).read_text('top_level.txt') or ''
        folder = next(filter(None, map(_folder, top_level.split())), None)
    if folder is None:
        raise ModuleNotFoundError(f'{package!r} is not installed; run: pip install {package}', name=package)
    return folder


def _folder(module: str) -> str | None:
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    return osp.dirname(osp.abspath(spec.origin)) if spec is not None and spec.has_location and spec.origin else None


def init_cpu_distributed(cfg: Config) -> None:
    """Set up several processes without CUDA; call it before the ``Runner`` is built.

    MMEngine's ``init_dist`` calls ``torch.cuda.set_device`` first of all, gives DDP a device for CPU modules, and
    SyncBatchNorm has no CPU form. So: gloo, ``device_ids=None``, no ``sync_bn``. ``cfg.launcher`` is one of
    'pytorch', 'slurm', 'mpi' (Open MPI); ``cfg.env_cfg.dist_cfg`` may hold ``timeout`` (seconds) and ``port``.
    On an accelerator only environment variables are set: DDP reads LOCAL_RANK, which mpirun does not provide.

    Raises:
        ValueError: The launcher's environment variables are missing.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher not in _RANK_VARIABLES:
        return
    dist_cfg = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
    set_rendezvous(launcher, dist_cfg.get('port'))
    if get_device() != 'cpu':
        return
    if not torch.distributed.is_initialized():
        timeout = dist_cfg.get('timeout')
        delta = None if timeout is None else datetime.timedelta(seconds=timeout)
        torch.distributed.init_process_group('gloo', timeout=delta)
    # Assigned, not changed in place: a Config hands out copies.
    wrapper: dict[str, Any] = dict(cfg.get('model_wrapper_cfg') or {'broadcast_buffers': False})
    wrapper.setdefault('type', 'MMDistributedDataParallel')
    if issubclass(MODEL_WRAPPERS.get(wrapper['type']), torch.nn.parallel.DistributedDataParallel):
        wrapper.setdefault('find_unused_parameters', cfg.get('find_unused_parameters', False))
        wrapper['device_ids'] = None
    cfg.model_wrapper_cfg = wrapper
    if cfg.pop('sync_bn', None) is not None:
        warnings.warn('sync_bn is dropped: SyncBatchNorm works on GPUs only', stacklevel=2)


# rank, number of processes, rank on its machine
_RANK_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}


def set_rendezvous(launcher: str, port: int | None) -> None:
    """Translate the launcher's environment variables into those of ``torch.distributed``."""
    missing = [name for name in _RANK_VARIABLES[launcher] if name not in os.environ]
    if missing:
        raise ValueError(
            f'launcher={launcher!r}: the environment variables {", ".join(missing)} are not set, so this process '
            'was not started by that launcher. Use tools/dist_train.sh, srun or mpirun, or launcher="none"'
        )
    for name, source in zip(('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), _RANK_VARIABLES[launcher], strict=True):
        os.environ[name] = os.environ[source]
    if launcher == 'slurm' and port is not None:
        os.environ['MASTER_PORT'] = str(port)
    os.environ.setdefault('MASTER_PORT', '29500')
    if 'MASTER_ADDR' not in os.environ:
        os.environ['MASTER_ADDR'] = _first_host(launcher)


def _first_host(launcher: str) -> str:
    """Address of the machine with rank 0, where the launcher does not give it."""
    if launcher == 'slurm':
        nodes = os.environ.get('SLURM_NODELIST', '')
        if os.environ.get('SLURM_NNODES', '1') == '1':
            return '127.0.0.1'
        command = ['scontrol', 'show', 'hostnames', nodes]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]
    if os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE') == os.environ['WORLD_SIZE']:
        return '127.0.0.1'
    raise ValueError(
        f'launcher={launcher!r} on several machines: set MASTER_ADDR to the address of the one with rank 0'
    )
