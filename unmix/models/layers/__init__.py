"""Layers that networks and heads are made of."""

from unmix.models.layers.batch_norm import BatchNormReplay, SplitBatchNorm
from unmix.models.layers.noise_contrast import NoiseContrast, SoftmaxContrast
from unmix.models.layers.whitening import Whitening

__all__ = ['BatchNormReplay', 'NoiseContrast', 'SoftmaxContrast', 'SplitBatchNorm', 'Whitening']
