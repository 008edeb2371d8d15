"""Every change that ``unmix`` makes to MMEngine, in one list, and nothing else.

:data:`CHANGES` are made when ``unmix`` is imported, for the whole process. :data:`REPLACED` are the classes of MMEngine
that a config of the scope ``unmix`` gets another class for: MMEngine's registries then find ours under MMEngine's name.
They hold on every distribution of MMEngine: ``mmengine``, ``onedl-mmengine`` or a source checkout.
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
    """Make all :data:`CHANGES`. Harmless when called again."""
    warn_if_overwritten()
    for _, change in CHANGES:
        change()


def _know_the_package() -> None:
    MODULE2PACKAGE.setdefault('unmix', 'unmix')


def _find_packages() -> None:
    utils = mmengine.utils
    _replace((utils.package_utils, utils, mmengine.config.config, mmengine.hub.hub), is_installed, get_installed_path)


def _load_safely() -> None:
    """Schemes that another package registered are left alone."""
    register = CheckpointLoader.register_scheme
    for prefix, loader in list(CheckpointLoader._schemes.items()):
        if loader.__module__ == mmengine_checkpoint.__name__ and prefix not in _BY_HTTP:
            register(prefixes=prefix, loader=load_from_refused_scheme, force=True)
    register(prefixes='', loader=load_from_local, force=True)
    register(prefixes=('http://', 'https://'), loader=load_from_http, force=True)
    _replace((mmengine_checkpoint,), load_from_local, load_from_http)


def _load_from_the_zoo() -> None:
    CheckpointLoader.register_scheme(prefixes='unmix::', loader=_zoo_loader, force=True)


def _save_whole_files() -> None:
    runner = mmengine.runner
    modules = (runner, mmengine_checkpoint, runner.runner, runner._flexible_runner)
    _replace(modules, save_checkpoint, find_latest_checkpoint)


def _find_collate() -> None:
    FUNCTIONS.register_module(name='collate', module=_collate, force=True)


CHANGES: tuple[tuple[str, Callable[[], None]], ...] = (
    ('config names of the form unmix::moco/... are found', _know_the_package),
    ('is_installed and get_installed_path of mmengine.utils work without pkg_resources', _find_packages),
    (
        'checkpoints are unpickled with weights_only=True and a short list of allowed types, from a path and from '
        'http(s)://; schemes that cannot be made safe (s3://, open-mmlab://, ...) are refused',
        _load_safely,
    ),
    ('unmix::NAME as a checkpoint is that of the model zoo', _load_from_the_zoo),
    (
        'checkpoints are written whole or not at all, sealed with a digest that loading compares, and --resume passes '
        'over a newest one that is damaged',
        _save_whole_files,
    ),
    ("collate_fn=dict(type='collate') is found by the Runner, which asks MMEngine's registry only", _find_collate),
)

# Name in MMEngine's registry: our class, which says in its docstring what is different.
REPLACED = {
    'CheckpointHook': 'unmix.checkpoint.hook.CheckpointHook',
    'DefaultOptimWrapperConstructor': 'unmix.engine.optimizers.fused_constructor.FusedConstructor',
    'Pretrained': 'unmix.models.pretrained.PretrainedInit',
}


def _replace(modules: tuple[Any, ...], *functions: Callable[..., Any]) -> None:
    """Replace functions in each module that has them under their names, since those that imported them keep theirs."""
    for module in modules:
        for function in functions:
            if hasattr(module, function.__name__):
                setattr(module, function.__name__, function)


def _zoo_loader(filename: str, map_location: Any = None) -> Any:
    """Load as :func:`unmix.zoo.load_weights`, which is imported when it is used: networks take a second."""
    return importlib.import_module('unmix.zoo').load_weights(filename, map_location)


def _collate(items: Any) -> Any:
    """Stack items as :func:`unmix.datasets.collate`, which is imported when it is used."""
    return importlib.import_module('unmix.datasets').collate(items)


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
