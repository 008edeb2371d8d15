"""Configs: found by name, read, checked."""

from unmix.config.load import config_files, config_root, find_config, load_config, use_amp

__all__ = ['config_files', 'config_root', 'find_config', 'load_config', 'use_amp']
