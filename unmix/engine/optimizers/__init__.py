"""Optimisers and their wrappers."""

from .autocast_optim_wrapper import AutocastOptimWrapper
from .fused_constructor import FusedConstructor
from .lars import LARC, LARS
from .streamed_sgd import StreamedSGD

__all__ = ['LARC', 'LARS', 'AutocastOptimWrapper', 'FusedConstructor', 'StreamedSGD']
