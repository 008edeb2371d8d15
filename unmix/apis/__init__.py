"""The Python interface."""

from unmix.apis.config import find_config, load_config
from unmix.apis.launch import build_runner

__all__ = ['build_runner', 'find_config', 'load_config']
