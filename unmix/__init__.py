"""Un-Mix: self-supervised image representation learning with mixed images, on MMEngine.

Importing this package changes MMEngine for the whole process, so that it behaves the same, and safely, on every
distribution of it (:mod:`unmix.compat`):

* checkpoints are unpickled with ``weights_only=True`` and a short list of allowed types, from a path and from
  ``http(s)://``; the schemes that cannot be made safe (``s3://``, ``open-mmlab://``, ...) are refused;
* checkpoints are written whole or not at all, sealed with a digest that loading compares, and a damaged newest one is
  passed over by ``--resume``;
* ``mmengine.utils.is_installed`` and ``get_installed_path`` work without ``pkg_resources``;
* the text of a config is formatted once, not for each checkpoint anew;
* config names of the form ``unmix::moco/...`` are found, and ``unmix::NAME`` as a checkpoint is that of the model zoo;
* a warning is given if two distributions of MMEngine or MMCV overwrite each other.
"""

import importlib
from typing import TYPE_CHECKING, Any

from mmengine.runner import CheckpointLoader

from unmix import compat
from unmix.version import __version__

if TYPE_CHECKING:
    from unmix.apis.features import extract_features
    from unmix.zoo import get_model, list_models

# Imported when they are used: networks take a second.
_LATER = {'extract_features': 'unmix.apis.features', 'get_model': 'unmix.zoo', 'list_models': 'unmix.zoo'}


def __getattr__(name: str) -> Any:
    if name == 'zoo':
        return importlib.import_module('unmix.zoo')
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def _load_from_zoo(filename: str, map_location: Any = None) -> Any:
    return __getattr__('zoo').load_weights(filename, map_location)


compat.install()
CheckpointLoader.register_scheme(prefixes='unmix::', loader=_load_from_zoo, force=True)

__all__ = ['__version__', 'extract_features', 'get_model', 'list_models']
