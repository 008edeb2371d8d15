"""All changes that ``unmix`` makes to MMEngine.

Importing ``unmix`` makes :data:`CHANGES`, for the whole process. :data:`REPLACED` has the classes of MMEngine that are
replaced in configs of the scope ``unmix``: the registries of ``unmix`` have other classes under the same names. All
changes work with every distribution of MMEngine: ``mmengine``, ``onedl-mmengine`` or a source checkout.
"""

import importlib
import importlib.util
import os.path as osp
import warnings
from collections.abc import Callable
from importlib import metadata
from itertools import chain
from typing import Any

import mmengine.config.config
import mmengine.hub.hub
import mmengine.runner._flexible_runner
import mmengine.runner.runner
import mmengine.utils.package_utils
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import FUNCTIONS
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint

from unmix.checkpoint.latest import find_latest_checkpoint
from unmix.checkpoint.load import load_from_http, load_from_local, load_from_refused_scheme
from unmix.checkpoint.save import save_checkpoint

_SAME_IMPORT_NAME = (('mmengine', 'onedl-mmengine'), ('mmcv', 'mmcv-lite', 'onedl-mmcv'))
# MMEngine resolves the names of these schemes and calls its load_from_http, which is replaced.
_BY_HTTP = ('modelzoo://', 'torchvision://')


def install() -> None:
    """Make all :data:`CHANGES`. A second call changes nothing more."""
    warn_if_overwritten()
    for _, change in CHANGES:
        change()


def _find_packages() -> None:
    utils = mmengine.utils
    _replace((utils.package_utils, utils, mmengine.config.config, mmengine.hub.hub), is_installed, get_installed_path)


def _load_safely() -> None:
    """Replace MMEngine's loaders; schemes of other packages stay."""
    register = CheckpointLoader.register_scheme
    for prefix, loader in list(CheckpointLoader._schemes.items()):
        if loader.__module__ == mmengine_checkpoint.__name__ and prefix not in _BY_HTTP:
            register(prefixes=prefix, loader=load_from_refused_scheme, force=True)
    register(prefixes='', loader=load_from_local, force=True)
    register(prefixes=('http://', 'https://'), loader=load_from_http, force=True)
    _replace((mmengine_checkpoint,), load_from_local, load_from_http)


def _save_whole_files() -> None:
    runner = mmengine.runner
    modules = (runner, mmengine_checkpoint, runner.runner, runner._flexible_runner)
    _replace(modules, save_checkpoint, find_latest_checkpoint)


CHANGES: tuple[tuple[str, Callable[[], object]], ...] = (
    ('config names of the form unmix::moco/... are found', lambda: MODULE2PACKAGE.setdefault('unmix', 'unmix')),
    ('is_installed and get_installed_path of mmengine.utils work without pkg_resources', _find_packages),
    (
        'checkpoints are unpickled with weights_only=True and a short list of allowed types, from a path and from '
        'http(s)://; schemes that cannot be made safe (s3://, open-mmlab://, ...) are refused',
        _load_safely,
    ),
    (
        'unmix::NAME as a checkpoint is a model of the zoo',
        lambda: CheckpointLoader.register_scheme(prefixes='unmix::', loader=_zoo_loader, force=True),
    ),
    (
        'checkpoints are written atomically, with a digest that is compared when they are loaded; --resume takes an '
        'older one if the newest is damaged',
        _save_whole_files,
    ),
    (
        "collate_fn=dict(type='collate') is found by the Runner, which searches MMEngine's registry only",
        lambda: FUNCTIONS.register_module(name='collate', module=_collate, force=True),
    ),
)

# Name in MMEngine's registry -> our class, whose docstring has the differences.
REPLACED = {
    'CheckpointHook': 'unmix.checkpoint.hook.CheckpointHook',
    'DefaultOptimWrapperConstructor': 'unmix.engine.optimizers.fused_constructor.FusedConstructor',
    'Pretrained': 'unmix.models.pretrained.PretrainedInit',
}


def _replace(modules: tuple[Any, ...], *functions: Callable[..., Any]) -> None:
    """Replace functions in each module that has imported them by name."""
    for module in modules:
        for function in functions:
            if hasattr(module, function.__name__):
                setattr(module, function.__name__, function)


def _zoo_loader(filename: str, map_location: Any = None) -> Any:
    """Call :func:`unmix.zoo.load_weights`, which is imported here because that takes a second."""
    return importlib.import_module('unmix.zoo').load_weights(filename, map_location)


def _collate(items: Any) -> Any:
    """Call :func:`unmix.datasets.collate`, which is imported here because that takes time."""
    return importlib.import_module('unmix.datasets').collate(items)


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def warn_if_overwritten() -> None:
    """Warn about distributions with the same files: each overwrites the other, and removing one breaks both."""
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
    """Return whether ``package`` is a distribution or can be imported; MMEngine 0.10.7 needs ``pkg_resources``."""
    return _installed(package) or _folder(package) is not None


def get_installed_path(package: str) -> str:
    """Return the folder of a package, given its import name or that of its distribution, also for editable installs.

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
