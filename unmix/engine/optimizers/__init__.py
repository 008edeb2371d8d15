"""Optimisers and their wrappers."""

from .autocast_optim_wrapper import AutocastOptimWrapper
from .fused_constructor import FusedConstructor
from .larc import LARC
from .lars import LARS

__all__ = ['LARC', 'LARS', 'AutocastOptimWrapper', 'FusedConstructor']
