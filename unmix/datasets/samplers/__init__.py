"""Samplers, registry ``DATA_SAMPLERS``."""

from unmix.datasets.samplers.epoch_sampler import EpochSampler, SampleKey, one_run
from unmix.datasets.samplers.sliding_window_sampler import SlidingWindowSampler

__all__ = ['EpochSampler', 'SampleKey', 'SlidingWindowSampler', 'one_run']
