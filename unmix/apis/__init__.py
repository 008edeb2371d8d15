"""The Python interface."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmix.apis.command import build_runner
    from unmix.config import find_config, load_config

# Imported on first use: PyTorch takes seconds, and `unmix runs` does without.
_LATER = {'build_runner': 'unmix.apis.command', 'find_config': 'unmix.config', 'load_config': 'unmix.config'}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


__all__ = ['build_runner', 'find_config', 'load_config']
