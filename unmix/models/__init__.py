"""Networks and methods."""

from unmix.models.algorithms import (
    BYOL,
    CMC,
    PIC,
    WMSE,
    BaseAlgorithm,
    Classifier,
    DeepClusterV2,
    InstDisc,
    MoCo,
    SimCLR,
    SwAV,
)
from unmix.models.backbones import ResNet, TwoBranch
from unmix.models.color import ColorPreprocessor
from unmix.models.data_preprocessor import DataPreprocessor
from unmix.models.heads import (
    AlignUniformHead,
    BaseHead,
    ClassificationHead,
    CMCHead,
    CosineHead,
    DeepClusterV2Head,
    InfoNCEHead,
    NCEHead,
    NTXentHead,
    PICHead,
    QueueNCEHead,
    SimSiamHead,
    SwAVHead,
    WMSEHead,
)
from unmix.models.layers import LearnableTemperature, SplitBatchNorm, Whitening
from unmix.models.necks import LinearNeck, MLPNeck, TwoBranchNeck
from unmix.models.pretrained import PretrainedInit

__all__ = [
    'BYOL',
    'CMC',
    'PIC',
    'WMSE',
    'AlignUniformHead',
    'BaseAlgorithm',
    'BaseHead',
    'CMCHead',
    'ClassificationHead',
    'Classifier',
    'ColorPreprocessor',
    'CosineHead',
    'DataPreprocessor',
    'DeepClusterV2',
    'DeepClusterV2Head',
    'InfoNCEHead',
    'InstDisc',
    'LearnableTemperature',
    'LinearNeck',
    'MLPNeck',
    'MoCo',
    'NCEHead',
    'NTXentHead',
    'PICHead',
    'PretrainedInit',
    'QueueNCEHead',
    'ResNet',
    'SimCLR',
    'SimSiamHead',
    'SplitBatchNorm',
    'SwAV',
    'SwAVHead',
    'TwoBranch',
    'TwoBranchNeck',
    'WMSEHead',
    'Whitening',
]
