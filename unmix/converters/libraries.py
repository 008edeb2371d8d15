"""Libraries that load a backbone, for classification and detection. Sources: the modules that read the names.

Each ``load_`` function loads a file strictly, as users of the library do. It takes the file, the depth and the number
of classes (0: no classifier), and returns the library's own network in float64 and evaluation mode: images
(N, 3, H, W) to features (N, D), or to scores (N, classes).
"""

import importlib
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import load_checkpoint
from torch import Tensor, nn
from torchvision.models import get_model

from unmix.converters.family import Family, Library
from unmix.converters.rules import Rule, after

Network = Callable[[Tensor], Tensor]


def missing(package: str) -> str | None:
    """Return the reason why a package cannot be imported, or None if it can."""
    root = package.partition('.')[0]
    try:
        importlib.import_module(package)
    except Exception as error:  # an unfit version of another package can raise anything
        if isinstance(error, ModuleNotFoundError) and str(error.name).partition('.')[0] == root:
            return f'{root} is not installed'
        return f'{root} cannot be imported ({error})'
    return None


def load_torchvision(path: Path, depth: int, classes: int) -> Network:
    """Use ``torchvision.models.resnet50()`` and ``load_state_dict``; without classifier, ``fc`` is an identity."""
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
    """Use ``timm.create_model('resnet50', checkpoint_path=...)``; ``num_classes=0`` without classifier."""
    import timm

    network: nn.Module = timm.create_model(f'resnet{depth}', num_classes=classes, checkpoint_path=str(path))
    return network.double().eval()


def load_openmmlab(network: nn.Module, path: Path) -> None:
    """Load a file by MMEngine's ``load_checkpoint``, strictly."""
    load_checkpoint(network, str(path), map_location='cpu', strict=True)
    network.double().eval()


def load_mmpretrain(path: Path, depth: int, classes: int) -> Network:
    """Load into the backbone of mmpretrain, and its ``LinearClsHead``."""
    from mmpretrain.models import LinearClsHead, ResNet

    backbone = ResNet(depth)
    head: Any = LinearClsHead(classes, backbone.feat_dim) if classes else nn.Module()
    load_openmmlab(nn.ModuleDict({'backbone': backbone, 'head': head}), path)
    classifier = head.fc if classes else nn.Identity()
    return lambda images: classifier(backbone(images)[-1].mean((2, 3)))


def load_mmdet(path: Path, depth: int, _classes: int) -> Network:
    """Load into the backbone of mmdet with all four stages."""
    from mmdet.models.backbones import ResNet

    backbone = ResNet(depth)
    load_openmmlab(nn.ModuleDict({'backbone': backbone}), path)
    return lambda images: backbone(images)[-1].mean((2, 3))


def load_mmdet_c4(path: Path, depth: int, _classes: int) -> Network:
    """Load into the backbone of mmdet with three stages, and the shared head of a C4 detector, the fourth stage."""
    from mmdet.models.backbones import ResNet
    from mmdet.models.roi_heads.shared_heads import ResLayer

    backbone = ResNet(depth, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,))
    head = ResLayer(depth)
    load_openmmlab(nn.ModuleDict({'backbone': backbone, 'roi_head': nn.ModuleDict({'shared_head': head})}), path)
    return lambda images: head(backbone(images)[-1]).mean((2, 3))


def load_detectron2(path: Path, depth: int, _classes: int) -> Network:
    """Load into the backbone of detectron2 by ``DetectionCheckpointer``, which ignores tensors that are missing."""
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


def c4_name(name: str) -> str:
    """Return the name in a C4 detector of mmdet, whose shared head is the last stage."""
    return ('roi_head.shared_head.' if name.startswith('layer4.') else 'backbone.') + name


def detectron2_name(name: str) -> str:
    """Return the name in detectron2, as detectron2's own tool for torchvision's weights gives it."""
    name = re.sub(r'^layer(\d)', lambda match: f'res{int(match[1]) + 1}', name)
    name = name if name.startswith('res') else f'stem.{name}'
    name = re.sub(r'\bbn([\d#])', r'conv\1.norm', name)
    return name.replace('downsample.0', 'shortcut').replace('downsample.1', 'shortcut.norm')


_TORCHVISION = Family(
    name='torchvision',
    source="torchvision's ResNet, with or without classifier; linear evaluations of MoCo and PIC",
    extra_rules=(Rule('head.fc.*', 'fc.*'),),
    resnets={'backbone': after('')},
    marks=('conv1.weight', 'layer1.*'),
    entries={'': None},
    suffixes=('.safetensors',),
    library=Library('torchvision', load_torchvision),
)
_MMPRETRAIN = Family(
    name='mmpretrain',
    aliases=('mmcls',),
    source='a backbone, or classifier, of mmpretrain',
    extra_rules=(Rule('head.fc.*', 'head.fc.*'),),
    resnets={'backbone': after('backbone.')},
    marks=('backbone.conv1.weight',),
    extra={'meta': {}},
    library=Library('mmpretrain.models', load_mmpretrain),
)
LIBRARIES = (
    _TORCHVISION,
    replace(
        _TORCHVISION,
        name='timm',
        source="timm's ResNet, with or without classifier",
        library=Library('timm', load_timm, (18, 26, 34, 50, 101, 152)),
    ),
    _MMPRETRAIN,
    replace(
        _MMPRETRAIN,
        name='mmdet',
        aliases=(),
        source='a backbone of mmdet: init_cfg=dict(type=Pretrained, prefix=backbone.)',
        extra_rules=(),
        library=Library('mmdet.models', load_mmdet),
    ),
    Family(
        name='mmdet-c4',
        source='a detector of mmdet with a C4 backbone: the last stage is the shared head; give the file as load_from',
        resnets={'backbone': c4_name},
        marks=('roi_head.shared_head.layer4.*',),
        stems=('imagenet',),
        extra={'meta': {}},
        library=Library('mmdet.models', load_mmdet_c4),
    ),
    Family(
        name='detectron2',
        source='a backbone of detectron2: .pkl of numpy arrays, matched by the end of their names',
        resnets={'backbone': detectron2_name},
        marks=('stem.conv1.weight', 'res2.*'),
        entries={'': 'model'},
        stems=('imagenet',),
        extra={'__author__': 'unmix', 'matching_heuristics': True},
        suffixes=('.pkl',),
        library=Library('detectron2.modeling', load_detectron2),
    ),
)
