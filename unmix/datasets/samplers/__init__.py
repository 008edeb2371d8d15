"""The order of the images of an epoch, registry ``DATA_SAMPLERS``, and the key that seeds their augmentations."""

from unmix.datasets.samplers.drawing import ClassBalancedSampler, RepeatedSampler, WeightedSampler
from unmix.datasets.samplers.epoch import EpochSampler, SubsetSampler
from unmix.datasets.samplers.keys import COPY, KeySampler, SampleKey, streams
from unmix.datasets.samplers.sliding_window import SlidingWindowSampler

__all__ = [
    'COPY',
    'ClassBalancedSampler',
    'EpochSampler',
    'KeySampler',
    'RepeatedSampler',
    'SampleKey',
    'SlidingWindowSampler',
    'SubsetSampler',
    'WeightedSampler',
    'streams',
]
