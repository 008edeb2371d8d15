"""Backbones."""

from unmix.models.backbones.resnet import ResNet
from unmix.models.backbones.timm_backbone import TIMMBackbone
from unmix.models.backbones.torchvision_backbone import TorchVisionBackbone
from unmix.models.backbones.two_branch import TwoBranch

__all__ = ['ResNet', 'TIMMBackbone', 'TorchVisionBackbone', 'TwoBranch']
