"""Backbones."""

from unmix.models.backbones.resnet import ResNet
from unmix.models.backbones.two_branch import TwoBranch

__all__ = ['ResNet', 'TwoBranch']
