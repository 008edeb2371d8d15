"""Layers that networks and heads are made of."""

from unmix.models.layers.batch_norm import BatchNormReplay, SplitBatchNorm
from unmix.models.layers.noise_contrast import NoiseContrast, SoftmaxContrast
from unmix.models.layers.temperature import (
    LearnableTemperature,
    Temperature,
    build_temperature,
    divide_query,
    read_temperature,
)
from unmix.models.layers.whitening import Whitening

__all__ = [
    'BatchNormReplay',
    'LearnableTemperature',
    'NoiseContrast',
    'SoftmaxContrast',
    'SplitBatchNorm',
    'Temperature',
    'Whitening',
    'build_temperature',
    'divide_query',
    'read_temperature',
]
