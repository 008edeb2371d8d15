"""Un-Mix: self-supervised image representation learning with mixed images, on MMEngine.

Importing this package changes MMEngine for the whole process, so that it behaves the same, and safely, on every
distribution of it: :data:`unmix.compat.CHANGES` lists the changes, and :data:`unmix.compat.REPLACED` the classes that
configs get instead of MMEngine's. A warning is given if two distributions of MMEngine or MMCV overwrite each other.
The changes are made at once if MMEngine has been imported before, otherwise together with its import: ``import unmix``
alone imports neither MMEngine nor PyTorch, which take seconds.
"""

import importlib
import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from unmix.version import __version__

if TYPE_CHECKING:
    from unmix.apis.features import extract_features
    from unmix.zoo import get_model, list_models

# Imported on first use: networks take a second.
_LATER = {'extract_features': 'unmix.apis.features', 'get_model': 'unmix.zoo', 'list_models': 'unmix.zoo'}


def __getattr__(name: str) -> Any:
    if name in ('compat', 'zoo'):
        return importlib.import_module(f'unmix.{name}')
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


class _WithMMEngine(MetaPathFinder):
    """Imports :mod:`unmix.compat` right after MMEngine, before anything else can be imported from MMEngine."""

    _searches = False

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return what the other finders find for MMEngine, with a loader that imports ``unmix.compat`` in the end."""
        if name != 'mmengine' or self._searches:
            return None
        self._searches = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._searches = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_change(module: ModuleType) -> None:
                execute(module)
                importlib.import_module('unmix.compat')

            spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


if 'mmengine' in sys.modules:
    importlib.import_module('unmix.compat')
else:
    sys.meta_path.insert(0, _WithMMEngine())

__all__ = ['__version__', 'extract_features', 'get_model', 'list_models']
