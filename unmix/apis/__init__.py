"""The Python interface."""

from unmix.apis.command import build_runner
from unmix.config import find_config, load_config

__all__ = ['build_runner', 'find_config', 'load_config']
