"""Optimisers and their wrappers."""

from .autocast_optim_wrapper import AutocastOptimWrapper
from .fused_constructor import FusedConstructor
from .lars import LARC, LARS

__all__ = ['LARC', 'LARS', 'AutocastOptimWrapper', 'FusedConstructor']
