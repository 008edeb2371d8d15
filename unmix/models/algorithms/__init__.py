"""Methods."""

from unmix.models.algorithms.base import BaseAlgorithm
from unmix.models.algorithms.byol import BYOL
from unmix.models.algorithms.classifier import Classifier
from unmix.models.algorithms.deepcluster import DeepClusterV2
from unmix.models.algorithms.dino import DINO
from unmix.models.algorithms.instances import CMC, PIC, InstDisc
from unmix.models.algorithms.lejepa import LeJEPA
from unmix.models.algorithms.mixed_barlow_twins import MixedBarlowTwins
from unmix.models.algorithms.moco import MoCo
from unmix.models.algorithms.multi_crop import MultiCropAlgorithm
from unmix.models.algorithms.simclr import SimCLR
from unmix.models.algorithms.swav import SwAV
from unmix.models.algorithms.wmse import WMSE

__all__ = [
    'BYOL',
    'CMC',
    'DINO',
    'PIC',
    'WMSE',
    'BaseAlgorithm',
    'Classifier',
    'DeepClusterV2',
    'InstDisc',
    'LeJEPA',
    'MixedBarlowTwins',
    'MoCo',
    'MultiCropAlgorithm',
    'SimCLR',
    'SwAV',
]
