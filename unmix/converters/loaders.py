"""How the users of a library load a file into its network, strictly.

Each function takes the file, the depth and the number of classes (0: no classifier), and returns the library's own
network in float64 and evaluation mode: images (N, 3, H, W) to features (N, D), or to scores (N, classes).
"""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import load_checkpoint
from torch import Tensor, nn
from torchvision.models import get_model

from unmix.converters.family import Library

Network = Callable[[Tensor], Tensor]


def missing(package: str) -> str | None:
    """Return why a package cannot be imported, or None if it can."""
    root = package.partition('.')[0]
    try:
        importlib.import_module(package)
    except Exception as error:  # a library that dislikes the version of another one may raise anything
        if isinstance(error, ModuleNotFoundError) and str(error.name).partition('.')[0] == root:
            return f'{root} is not installed'
        return f'{root} cannot be imported ({error})'
    return None


def load_torchvision(path: Path, depth: int, classes: int) -> Network:
    """``torchvision.models.resnet50()`` and ``load_state_dict``; without classifier, ``fc`` is an identity."""
    network: nn.Module = get_model(f'resnet{depth}', num_classes=classes or 1)
    if not classes:
        network.fc = nn.Identity()
    if path.suffix == '.safetensors':
        load_file = importlib.import_module('safetensors.torch').load_file
    else:
        load_file = partial(torch.load, map_location='cpu', weights_only=True)
    network.load_state_dict(load_file(path))
    return network.double().eval()


def load_timm(path: Path, depth: int, classes: int) -> Network:
    """``timm.create_model('resnet50', checkpoint_path=...)``; ``num_classes=0`` without classifier."""
    import timm

    network: nn.Module = timm.create_model(f'resnet{depth}', num_classes=classes, checkpoint_path=str(path))
    return network.double().eval()


def load_openmmlab(network: nn.Module, path: Path) -> nn.Module:
    """Load a file by MMEngine's ``load_checkpoint``."""
    load_checkpoint(network, str(path), map_location='cpu', strict=True)
    return network.double().eval()


def load_mmpretrain(path: Path, depth: int, classes: int) -> Network:
    """The backbone of mmpretrain, and its ``LinearClsHead``."""
    from mmpretrain.models import LinearClsHead, ResNet

    backbone = ResNet(depth)
    head: Any = LinearClsHead(classes, backbone.feat_dim) if classes else nn.Module()
    load_openmmlab(nn.ModuleDict({'backbone': backbone, 'head': head}), path)
    classifier = head.fc if classes else nn.Identity()
    return lambda images: classifier(backbone(images)[-1].mean((2, 3)))


def load_mmdet(path: Path, depth: int, _classes: int) -> Network:
    """The backbone of mmdet with all four stages."""
    from mmdet.models.backbones import ResNet

    backbone = ResNet(depth)
    load_openmmlab(nn.ModuleDict({'backbone': backbone}), path)
    return lambda images: backbone(images)[-1].mean((2, 3))


def load_mmdet_c4(path: Path, depth: int, _classes: int) -> Network:
    """The backbone of mmdet with three stages, and the shared head of a C4 detector, which is the fourth."""
    from mmdet.models.backbones import ResNet
    from mmdet.models.roi_heads.shared_heads import ResLayer

    backbone = ResNet(depth, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,))
    head = ResLayer(depth)
    load_openmmlab(nn.ModuleDict({'backbone': backbone, 'roi_head': nn.ModuleDict({'shared_head': head})}), path)
    return lambda images: head(backbone(images)[-1]).mean((2, 3))


def load_detectron2(path: Path, depth: int, _classes: int) -> Network:
    """The backbone of detectron2 by its ``DetectionCheckpointer``, which leaves out what is missing: outputs tell."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.layers import ShapeSpec
    from detectron2.modeling.backbone import build_resnet_backbone

    config = get_cfg()
    config.MODEL.BACKBONE.FREEZE_AT = 0
    resnets = config.MODEL.RESNETS
    resnets.DEPTH, resnets.NORM, resnets.OUT_FEATURES, resnets.STRIDE_IN_1X1 = depth, 'BN', ['res5'], False
    resnets.RES2_OUT_CHANNELS = 64 if depth < 50 else 256
    network = build_resnet_backbone(config, ShapeSpec(channels=3))
    DetectionCheckpointer(network).load(str(path))
    network.double().eval()
    return lambda images: network(images)['res5'].mean((2, 3))


TORCHVISION = Library('torchvision', load_torchvision)
TIMM = Library('timm', load_timm, depths=(18, 26, 34, 50, 101, 152))
MMPRETRAIN = Library('mmpretrain.models', load_mmpretrain)
MMDET = Library('mmdet.models', load_mmdet)
MMDET_C4 = Library('mmdet.models', load_mmdet_c4)
DETECTRON2 = Library('detectron2.modeling', load_detectron2)
