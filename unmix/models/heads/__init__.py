"""Losses with their state."""

from unmix.models.functional.sinkhorn import sinkhorn
from unmix.models.functional.spherical_kmeans import spherical_kmeans
from unmix.models.heads.align_uniform import AlignUniformHead, align, uniform
from unmix.models.heads.barlow_twins import BarlowTwinsHead
from unmix.models.heads.base import BaseHead
from unmix.models.heads.batch_info_nce import BatchInfoNCEHead
from unmix.models.heads.classification_head import ClassificationHead
from unmix.models.heads.cosine import CosineHead
from unmix.models.heads.deepcluster import DeepClusterV2Head
from unmix.models.heads.dino import DINOHead
from unmix.models.heads.info_nce import InfoNCEHead
from unmix.models.heads.lejepa import LeJEPAHead
from unmix.models.heads.moco_v3 import MoCoV3Head
from unmix.models.heads.nce import CMCHead, NCEHead
from unmix.models.heads.nnclr import NNCLRHead
from unmix.models.heads.nt_xent import NTXentHead
from unmix.models.heads.pic import PICHead
from unmix.models.heads.queue_nce import QueueNCEHead
from unmix.models.heads.simsiam import SimSiamHead
from unmix.models.heads.swav import SwAVHead
from unmix.models.heads.vicreg import VICRegHead
from unmix.models.heads.wmse import WMSEHead

__all__ = [
    'AlignUniformHead',
    'BarlowTwinsHead',
    'BaseHead',
    'BatchInfoNCEHead',
    'CMCHead',
    'ClassificationHead',
    'CosineHead',
    'DINOHead',
    'DeepClusterV2Head',
    'InfoNCEHead',
    'LeJEPAHead',
    'MoCoV3Head',
    'NCEHead',
    'NNCLRHead',
    'NTXentHead',
    'PICHead',
    'QueueNCEHead',
    'SimSiamHead',
    'SwAVHead',
    'VICRegHead',
    'WMSEHead',
    'align',
    'sinkhorn',
    'spherical_kmeans',
    'uniform',
]
