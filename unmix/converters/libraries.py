"""Libraries that take a backbone: classification and detection. Sources: the modules that read the names."""

import re
from dataclasses import replace

from unmix.converters.family import Family
from unmix.converters.loaders import DETECTRON2, MMDET, MMDET_C4, MMPRETRAIN, TIMM, TORCHVISION
from unmix.converters.naming import after
from unmix.converters.rules import Rule


def c4_name(name: str) -> str:
    """A tensor of torchvision's ResNet in a C4 detector of mmdet, whose shared head is the last stage."""
    return ('roi_head.shared_head.' if name.startswith('layer4.') else 'backbone.') + name


def detectron2_name(name: str) -> str:
    """A tensor of torchvision's ResNet in detectron2, as its own tool for torchvision's weights renames it."""
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
    suffixes=('.safetensors',),
    library=TORCHVISION,
)
_MMPRETRAIN = Family(
    name='mmpretrain',
    aliases=('mmcls',),
    source='a backbone, or classifier, of mmpretrain',
    extra_rules=(Rule('head.fc.*', 'head.fc.*'),),
    resnets={'backbone': after('backbone.')},
    marks=('backbone.conv1.weight',),
    entries={'': 'state_dict'},
    extra={'meta': {}},
    library=MMPRETRAIN,
)
LIBRARIES = (
    _TORCHVISION,
    replace(_TORCHVISION, name='timm', source="timm's ResNet, with or without classifier", library=TIMM),
    _MMPRETRAIN,
    replace(
        _MMPRETRAIN,
        name='mmdet',
        aliases=(),
        source='a backbone of mmdet: init_cfg=dict(type=Pretrained, prefix=backbone.)',
        extra_rules=(),
        library=MMDET,
    ),
    Family(
        name='mmdet-c4',
        source='a detector of mmdet with a C4 backbone: the last stage is the shared head; to be given as load_from',
        extra_rules=(),
        resnets={'backbone': c4_name},
        marks=('roi_head.shared_head.layer4.*',),
        entries={'': 'state_dict'},
        stems=('imagenet',),
        extra={'meta': {}},
        library=MMDET_C4,
    ),
    Family(
        name='detectron2',
        source='a backbone of detectron2: .pkl of numpy arrays, matched by the end of their names',
        extra_rules=(),
        resnets={'backbone': detectron2_name},
        marks=('stem.conv1.weight', 'res2.*'),
        entries={'': 'model'},
        stems=('imagenet',),
        extra={'__author__': 'unmix', 'matching_heuristics': True},
        suffixes=('.pkl',),
        library=DETECTRON2,
    ),
)
