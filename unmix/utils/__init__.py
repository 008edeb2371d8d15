"""Only what two folders of the package use."""

from unmix.utils.clock import Clock, read_clock
from unmix.utils.dist import (
    agreed,
    concat_all_gather,
    concat_all_gather_grad,
    rank_slice,
    rank_zero_permutation,
    unwrap,
)
from unmix.utils.feature_queue import FeatureQueue
from unmix.utils.files import atomic_path, leftovers
from unmix.utils.matching import check_match
from unmix.utils.precision import full_precision
from unmix.utils.rng import generator, preserved, reseed, seeded, stream, uniforms

__all__ = [
    'Clock',
    'FeatureQueue',
    'agreed',
    'atomic_path',
    'check_match',
    'concat_all_gather',
    'concat_all_gather_grad',
    'full_precision',
    'generator',
    'leftovers',
    'preserved',
    'rank_slice',
    'rank_zero_permutation',
    'read_clock',
    'reseed',
    'seeded',
    'stream',
    'uniforms',
    'unwrap',
]
