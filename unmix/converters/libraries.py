"""Libraries that take a backbone: classification and detection. Sources: the modules that read the names."""

from unmix.converters.family import Encoder, Family, Layout
from unmix.converters.naming import CLASSIFIER, detectron2, resnet
from unmix.converters.rules import Rule

LIBRARIES = (
    Family(
        name='torchvision',
        aliases=('timm',),
        source="torchvision's and timm's ResNet, with or without classifier; linear evaluations of MoCo and PIC",
        rules=(*resnet('backbone.', ''), *CLASSIFIER),
        encoders=(Encoder(('',), heads={'head': ('fc',)}),),
        marks=('conv1.weight', 'layer1.*'),
    ),
    Family(
        name='mmpretrain',
        aliases=('mmdet', 'mmcls'),
        source='a backbone, or classifier, of mmpretrain; for mmdet: init_cfg=dict(type=Pretrained, prefix=backbone.)',
        rules=(*resnet('backbone.', 'backbone.'), Rule('head.fc.*', 'head.fc.*')),
        encoders=(Encoder(('backbone.',), heads={'head': ('head.fc',)}),),
        marks=('backbone.conv1.weight',),
        entries={'': 'state_dict'},
        extra={'meta': {}},
    ),
    Family(
        name='mmdet-c4',
        source='a detector of mmdet with a C4 backbone: the last stage is the shared head; to be given as load_from',
        rules=(
            *resnet('backbone.', 'backbone.')[:-1],
            Rule('backbone.layer4.*', 'roi_head.shared_head.layer4.*'),
        ),
        encoders=(
            Encoder(
                ('',),
                Layout(
                    'backbone.conv1',
                    'backbone.bn1',
                    ('backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'roi_head.shared_head.layer4'),
                ),
            ),
        ),
        marks=('roi_head.shared_head.layer4.*',),
        entries={'': 'state_dict'},
        small_stem=None,
        extra={'meta': {}},
    ),
    Family(
        name='detectron2',
        source='a backbone of detectron2: .pkl of numpy arrays, matched by the end of their names',
        rules=(
            Rule('backbone.bn1.*', 'stem.conv1.norm.*'),
            Rule('backbone.conv1.*', 'stem.conv1.*'),
            *(rule for i in range(1, 5) for rule in detectron2(i)),
        ),
        encoders=(
            Encoder(
                ('',),
                Layout(
                    'stem.conv1',
                    'stem.conv1.norm',
                    ('res2', 'res3', 'res4', 'res5'),
                    norm='conv#.norm',
                    shortcut=('shortcut', 'shortcut.norm'),
                ),
            ),
        ),
        marks=('stem.conv1.weight', 'res2.*'),
        entries={'': 'model'},
        small_stem=None,
        extra={'__author__': 'unmix', 'matching_heuristics': True},
    ),
)
