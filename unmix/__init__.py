"""Un-Mix: self-supervised image representation learning with mixed images, on MMEngine.

Importing this package changes MMEngine for the whole process, so that it behaves the same, and safely, on every
distribution of it: :data:`unmix.compat.CHANGES` lists the changes, and :data:`unmix.compat.REPLACED` the classes that
configs get instead of MMEngine's. A warning is given if two distributions of MMEngine or MMCV overwrite each other.
"""

import importlib
from typing import TYPE_CHECKING, Any

from unmix import compat
from unmix.version import __version__

if TYPE_CHECKING:
    from unmix.apis.features import extract_features
    from unmix.zoo import get_model, list_models

# Imported on first use: networks take a second.
_LATER = {'extract_features': 'unmix.apis.features', 'get_model': 'unmix.zoo', 'list_models': 'unmix.zoo'}


def __getattr__(name: str) -> Any:
    if name == 'zoo':
        return importlib.import_module('unmix.zoo')
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


compat.install()

__all__ = ['__version__', 'extract_features', 'get_model', 'list_models']
