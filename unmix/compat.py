"""All changes that ``unmix`` makes to MMEngine.

Importing this module makes :data:`CHANGES`, for the whole process; ``unmix`` imports it together with MMEngine. So it
imports no other module of ``unmix``, each of which may be half imported then: what takes the place of a function of
MMEngine is imported by its first call. :data:`REPLACED` has the classes of MMEngine that are replaced in configs of the
scope ``unmix``: the registries of ``unmix`` have other classes under the same names. All changes work with every
distribution of MMEngine: ``mmengine``, ``onedl-mmengine`` or a source checkout.
"""

import difflib
import importlib
import importlib.util
import os.path as osp
import pkgutil
import warnings
from collections.abc import Callable
from functools import lru_cache, wraps
from importlib import metadata
from importlib.machinery import ModuleSpec
from itertools import chain
from types import ModuleType
from typing import Any

import mmengine.config.config
import mmengine.hub.hub
import mmengine.runner._flexible_runner
import mmengine.runner.runner
import mmengine.utils.package_utils
import torch
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import FUNCTIONS
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from packaging.requirements import InvalidRequirement, Requirement

# Names that MMEngine's loaders look up.
_MODELS: dict[str, Callable[[Any], dict[str, str]]] = {
    'load_from_openmmlab': lambda module: module.get_external_models(),
    'load_from_mmcls': lambda module: module.get_mmcls_models(),
    'load_from_torchvision': lambda module: module.get_torchvision_models(),
}


def _later(path: str) -> Callable[..., Any]:
    """Return a function that imports the function at ``path``, such as ``unmix.zoo:load_weights``, and calls it."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return pkgutil.resolve_name(path)(*args, **kwargs)

    call.__name__ = path.partition(':')[2]
    return call


load_from_local = _later('unmix.checkpoint.load:load_from_local')
load_from_http = _later('unmix.checkpoint.load:load_from_http')
save_checkpoint = _later('unmix.checkpoint.save:save_checkpoint')
find_latest_checkpoint = _later('unmix.checkpoint.latest:find_latest_checkpoint')
named = _later('unmix.checkpoint.load:named')
_SAME_IMPORT_NAME = (('mmengine', 'onedl-mmengine'), ('mmcv', 'mmcv-lite', 'onedl-mmcv'))


def install() -> None:
    """Make all :data:`CHANGES`. A second call changes nothing more."""
    warn_if_overwritten()
    for _, change in CHANGES:
        change()


def _find_packages() -> None:
    utils = mmengine.utils
    modules = (utils.package_utils, utils, mmengine.config.config, mmengine.hub.hub)
    for ours in (is_installed, get_installed_path):
        theirs = getattr(utils.package_utils, ours.__name__)
        if not hasattr(theirs, '__wrapped__'):
            _replace(modules, _without_pkg_resources(theirs, ours))


def _without_pkg_resources(theirs: Callable[[str], Any], ours: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return MMEngine's function, which ends in ours where ``pkg_resources`` is not installed."""

    @wraps(theirs)
    def call(package: str) -> Any:
        try:
            return theirs(package)
        except ModuleNotFoundError as error:
            if (error.name or '').partition('.')[0] != 'pkg_resources':
                raise
        return ours(package)

    return call


class _Torch(ModuleType):
    """``torch`` as the module with MMEngine's loaders sees it: ``load`` is our ``load_for_scheme``."""

    load = staticmethod(_later('unmix.checkpoint.load:load_for_scheme'))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _load_safely() -> None:
    """Make MMEngine's loaders, under any scheme, unpickle by our function; loaders of other packages stay."""
    mmengine_checkpoint.torch = _Torch('torch')
    _replace((mmengine_checkpoint,), load_from_local, load_from_http)
    for prefix, loader in list(CheckpointLoader._schemes.items()):
        ours = {'': load_from_local, 'http://': load_from_http, 'https://': load_from_http}.get(prefix)
        if ours is not None:
            CheckpointLoader.register_scheme(prefix, ours, force=True)
        elif loader in vars(mmengine_checkpoint).values():
            CheckpointLoader.register_scheme(prefix, _explained(loader), force=True)


def _explained(loader: Callable[..., Any]) -> Callable[..., Any]:
    """Return a loader of MMEngine whose errors have the name of the checkpoint and say what to do."""

    @wraps(loader)
    def load(filename: str, *args: Any, **kwargs: Any) -> Any:
        scheme, _, name = filename.partition('://')
        try:
            with named(filename):
                return loader(filename, *args, **kwargs)
        except KeyError as error:
            near = difflib.get_close_matches(name, _MODELS[loader.__name__](mmengine_checkpoint), n=3)
            hint = f' Did you mean {" or ".join(near)}?' if near else ''
            raise KeyError(f'checkpoint {filename!r}: MMEngine knows no {error} of {scheme}://.{hint}') from error
        except ImportError as error:
            message = f'checkpoint {filename!r}: {error} Or download the file by other means, and give its path'
            raise ImportError(message, name=error.name) from error

    return load


def _save_whole_files() -> None:
    runner = mmengine.runner
    modules = (runner, mmengine_checkpoint, runner.runner, runner._flexible_runner)
    _replace(modules, save_checkpoint, find_latest_checkpoint)


def _remember_formatted_text() -> None:
    """Let yapf format the text of a config once: a run asks for it about seven times, at 0.1 to 0.3 s each."""
    theirs = mmengine.config.config.FormatCode
    if hasattr(theirs, '__wrapped__'):
        return

    @lru_cache(maxsize=8)
    def remembered(text: str, options: tuple[tuple[str, Any], ...]) -> Any:
        return theirs(text, **{key: dict(value) if isinstance(value, tuple) else value for key, value in options})

    @wraps(theirs)
    def call(text: str, **options: Any) -> Any:
        hashable = {key: tuple(value.items()) if isinstance(value, dict) else value for key, value in options.items()}
        return remembered(text, tuple(hashable.items()))

    mmengine.config.config.FormatCode = call


CHANGES: tuple[tuple[str, Callable[[], object]], ...] = (
    ('config names of the form unmix::moco/... are found', lambda: MODULE2PACKAGE.setdefault('unmix', 'unmix')),
    ('is_installed and get_installed_path of mmengine.utils work without pkg_resources', _find_packages),
    (
        'checkpoints are unpickled with weights_only=True and a short list of allowed types, from a path and under '
        'every scheme of MMEngine (http(s)://, open-mmlab://, s3://, ...)',
        _load_safely,
    ),
    (
        'unmix::NAME as a checkpoint is a model of the zoo',
        lambda: CheckpointLoader.register_scheme('unmix::', _later('unmix.zoo:load_weights'), force=True),
    ),
    (
        'checkpoints are written atomically, with a digest that is compared when they are loaded; --resume takes an '
        'older one if the newest is damaged',
        _save_whole_files,
    ),
    ('the text of a config is formatted once, not each time it is written or printed', _remember_formatted_text),
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
    'Visualizer': 'unmix.visualization.visualizer.LazyVisualizer',
}


def _replace(modules: tuple[Any, ...], *functions: Callable[..., Any]) -> None:
    """Replace functions in each module that has imported them by name."""
    for module in modules:
        for function in functions:
            if hasattr(module, function.__name__):
                setattr(module, function.__name__, function)


def _collate(items: Any) -> Any:
    """Call :func:`unmix.datasets.collate`; workers that are spawned find this function by its name."""
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
    """Return whether a package is there; MMEngine 0.10.7 needs ``pkg_resources``.

    Args:
        package: A distribution, also with a version (``'numpy>=1.20'``), or a module, also a dotted one.
    """
    requirement = _requirement(package)
    if requirement is not None and _installed(requirement.name):
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    spec = _spec(package)
    return spec is not None and spec.origin is not None


def get_installed_path(package: str) -> str:
    """Return the folder of a package, also for editable installs; MMEngine 0.10.7 needs ``pkg_resources``.

    Args:
        package: As for :func:`is_installed`.

    Raises:
        ModuleNotFoundError: There is no such package.
        RuntimeError: It has no folder of its own: a namespace package, or a module of the interpreter.
    """
    requirement = _requirement(package)
    names = [package]
    if requirement is not None and _installed(requirement.name):  # mmsegmentation -> mmseg
        names = [requirement.name, *_modules(requirement.name)]
    spec = next(filter(None, map(_spec, names)), None)
    if spec is None:
        raise metadata.PackageNotFoundError(f'{package!r} is not installed; run: pip install {package}')
    if not spec.has_location or spec.origin is None:
        raise RuntimeError(f'{package!r} has no folder of its own: it is a namespace package or a built-in module')
    return osp.dirname(osp.abspath(spec.origin))


def _requirement(text: str) -> Requirement | None:
    try:
        return Requirement(text)
    except InvalidRequirement:
        return None


def _modules(distribution: str) -> list[str]:
    """Return the top-level modules of an installed distribution."""
    found = metadata.distribution(distribution)
    if listed := found.read_text('top_level.txt'):
        return listed.split()
    name = found.metadata['Name']
    return [module for module, names in metadata.packages_distributions().items() if name in names]


def _spec(module: str) -> ModuleSpec | None:
    """Return the specification of a module, None if it cannot be imported; parents are imported."""
    if not all(part.isidentifier() for part in module.split('.')):
        return None
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):  # no such parent; a module without a specification, such as __main__
        return None


install()
