"""Image mixtures: the operations (global, region) and the Un-Mix equation."""

from unmix.mixing.ops import CutMix, Mixing, Mixup, RandomMixing, region_box
from unmix.mixing.partners import Partners
from unmix.mixing.patches import KeptPatches
from unmix.mixing.unmix import UnMix

__all__ = ['CutMix', 'KeptPatches', 'Mixing', 'Mixup', 'Partners', 'RandomMixing', 'UnMix', 'region_box']
