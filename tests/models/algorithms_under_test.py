"""One row for each method: its config on a network small enough to run many times. A new method adds a row.

``METHODS`` adds the facts that a config does not tell, see :class:`unmix.testing.MethodUnderTest`.
"""

from collections.abc import Sequence

from torch import Tensor

from unmix.models import DeepClusterV2
from unmix.testing import MethodUnderTest

BACKBONE = dict(type='ResNet', depth=8, in_channels=3, width=4, stem='cifar')
VIT = dict(
    type='TorchVisionBackbone', model_name='VisionTransformer', img_size=8,
    model_args=dict(patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=16),
)  # fmt: skip
NECK = dict(type='MLPNeck', in_dim=16, hidden_dim=12, out_dim=8)
INFO_NCE = dict(type='InfoNCEHead', dim=8, queue_size=20, temperature=0.2)
NORM_NECK = dict(NECK, norm=True)
ALIGN_UNIFORM = dict(type='AlignUniformHead', dim=8, queue_size=20, alpha=1.5, contrast_weight=0.5, scope='global')
WMSE = dict(
    type='WMSE', backbone=BACKBONE, neck=dict(NORM_NECK, out_dim=2), joint_neck=True,
    head=dict(type='WMSEHead', sub_batch=3, draws=2),
)  # fmt: skip
NCE = dict(type='NCEHead', num_instances=30, dim=8, num_negatives=5)
CMC = dict(
    type='CMC', backbone=dict(type='TwoBranch', branch=BACKBONE), neck=dict(type='TwoBranchNeck', neck=NECK),
    head=dict(NCE, type='CMCHead', form='softmax'),
)  # fmt: skip
PIC = dict(type='PIC', backbone=BACKBONE, neck=NECK, head=dict(type='PICHead', num_instances=30, dim=8))

ALGORITHMS = {
    'moco-v1': dict(
        type='MoCo', backbone=BACKBONE, neck=dict(type='LinearNeck', in_dim=16, out_dim=8), head=INFO_NCE, momentum=0.99
    ),
    'moco-v2': dict(type='MoCo', backbone=BACKBONE, neck=NECK, head=INFO_NCE, momentum=0.99),
    'moco-batch': dict(
        type='MoCo', backbone=BACKBONE, neck=NECK, head=dict(INFO_NCE, type='BatchInfoNCEHead'), momentum=0.99
    ),
    'moco-symmetric': dict(
        type='MoCo', backbone=dict(BACKBONE, num_splits=2), neck=NECK, head=INFO_NCE, momentum=0.99, symmetric=True
    ),
    'moco-temperature': dict(
        type='MoCo', backbone=BACKBONE, neck=NECK, head=dict(INFO_NCE, temperature=dict(type='LearnableTemperature')),
        momentum=0.99,
    ),
    'moco-align-uniform': dict(type='MoCo', backbone=BACKBONE, neck=NECK, head=ALIGN_UNIFORM, momentum=0.99),
    'simclr': dict(type='SimCLR', backbone=BACKBONE, neck=NECK, head=dict(type='NTXentHead', temperature=0.2)),
    'simclr-joint': dict(
        type='SimCLR', backbone=BACKBONE, neck=dict(NORM_NECK, last_norm=True, last_affine=True), joint_neck=True,
        head=dict(type='NTXentHead', temperature=0.5),
    ),
    'byol': dict(
        type='BYOL', backbone=BACKBONE, neck=NORM_NECK, predictor=dict(NORM_NECK, in_dim=8),
        head=dict(type='CosineHead'),
    ),
    'simsiam': dict(
        type='SimCLR', backbone=BACKBONE, neck=dict(NORM_NECK, last_norm=True),
        head=dict(type='SimSiamHead', dim=8, hidden_dim=4),
    ),
    'vicreg': dict(
        type='SimCLR', backbone=BACKBONE, neck=dict(NORM_NECK, last_bias=False), head=dict(type='VICRegHead'),
    ),
    'barlow-twins': dict(
        type='SimCLR', backbone=BACKBONE, neck=dict(NORM_NECK, last_bias=False), head=dict(type='BarlowTwinsHead'),
    ),
    'mixed-barlow-twins': dict(
        type='MixedBarlowTwins', backbone=BACKBONE, neck=dict(NORM_NECK, last_bias=False),
        head=dict(type='BarlowTwinsHead', off_diagonal=0.1, unit_length=True),
    ),
    'moco-v3': dict(
        type='BYOL', backbone=BACKBONE, neck=NORM_NECK, predictor=dict(NORM_NECK, in_dim=8),
        head=dict(type='MoCoV3Head', temperature=0.5),
    ),
    'nnclr': dict(
        type='SimCLR', backbone=BACKBONE, neck=NORM_NECK,
        head=dict(type='NNCLRHead', dim=8, hidden_dim=4, queue_size=20, temperature=0.2),
    ),
    'dino': dict(
        type='DINO', backbone=BACKBONE,
        neck=dict(type='DINONeck', in_dim=16, hidden_dim=12, bottleneck_dim=8, out_dim=9),
        head=dict(type='DINOHead', dim=9), freeze_epochs=0, num_views=3,
    ),
    'dino-vit': dict(
        type='DINO', backbone=VIT,
        neck=dict(type='DINONeck', in_dim=16, hidden_dim=12, bottleneck_dim=8, out_dim=9),
        head=dict(type='DINOHead', dim=9), freeze_epochs=0, num_views=3,
    ),
    'lejepa': dict(
        type='LeJEPA', backbone=BACKBONE, neck=NORM_NECK, head=dict(type='LeJEPAHead', directions=5), num_views=3,
    ),
    'instdisc': dict(type='InstDisc', backbone=BACKBONE, neck=NECK, head=dict(NCE, form='softmax')),
    'instdisc-nce': dict(type='InstDisc', backbone=BACKBONE, neck=NECK, head=dict(NCE, form='nce')),
    'cmc': CMC,
    'cmc-nce': dict(CMC, head=dict(CMC['head'], form='nce')),
    'pic': PIC,
    'pic-recent': dict(PIC, head=dict(PIC['head'], num_recent=10, max_phases=8)),
    'moco-nce': dict(
        type='MoCo', backbone=BACKBONE, neck=NECK, head=dict(INFO_NCE, type='QueueNCEHead', num_instances=30)
    ),
    'wmse': WMSE,
    'wmse-4': dict(WMSE, num_views=4),
    'swav': dict(
        type='SwAV', backbone=BACKBONE, neck=NORM_NECK,
        head=dict(type='SwAVHead', dim=8, num_prototypes=7, queue_size=12),
    ),
    'swav-released': dict(
        type='SwAV', backbone=BACKBONE, neck=NORM_NECK, flip_mode='code_only',
        head=dict(type='SwAVHead', dim=8, num_prototypes=7),
    ),
    'deepclusterv2': dict(
        type='DeepClusterV2', backbone=BACKBONE, neck=NORM_NECK,
        head=dict(type='DeepClusterV2Head', num_instances=6, dim=8, num_prototypes=3, num_heads=3),
    ),
}  # fmt: skip

# Encodings of a step with Un-Mix: (queries, targets).
ENCODINGS = {
    'moco-v1': (2, 1),
    'moco-v2': (2, 1),
    'moco-batch': (2, 1),
    'moco-symmetric': (3, 2),
    'moco-temperature': (2, 1),
}
ENCODINGS |= {'moco-align-uniform': (2, 1), 'simclr': (3, 0), 'simclr-joint': (3, 0), 'byol': (3, 3)}
ENCODINGS |= {'instdisc': (2, 0), 'instdisc-nce': (2, 0), 'cmc': (2, 0), 'cmc-nce': (2, 0)}
ENCODINGS |= {'pic': (3, 0), 'pic-recent': (3, 0), 'moco-nce': (2, 1)}
ENCODINGS |= {'simsiam': (3, 0), 'wmse': (3, 0), 'wmse-4': (5, 0)}
ENCODINGS |= {
    'vicreg': (3, 0),
    'barlow-twins': (3, 0),
    'mixed-barlow-twins': (3, 0),
    'moco-v3': (3, 3),
    'nnclr': (3, 0),
    'dino': (4, 3),
    'dino-vit': (4, 3),
    'lejepa': (4, 0),
}
ENCODINGS |= {'swav': (1, 0), 'swav-released': (1, 0), 'deepclusterv2': (1, 0)}  # all crops of a resolution in one pass

# Views, or crops, of an image, where they are not two.
NUM_VIEWS = {'wmse-4': 4, 'dino': 3, 'dino-vit': 3, 'lejepa': 3}


def cluster(model: DeepClusterV2, views: Sequence[Tensor], index: Tensor, epoch: int) -> None:
    """Do what :class:`ClusterHook` does before an epoch."""
    model.remember(views, index)
    model.cluster(epoch)


FACTS = {
    'pic-recent': dict(moves_with_optimizer=True),
    'swav': dict(joint_batch_norm=True),
    'mixed-barlow-twins': dict(literal_unmix=False),
    'swav-released': dict(joint_batch_norm=True, literal_unmix=False),
    'deepclusterv2': dict(joint_batch_norm=True, prepare=cluster),
}

METHODS = {
    name: MethodUnderTest(config, num_views=NUM_VIEWS.get(name, 2), encodings=ENCODINGS[name], **FACTS.get(name, {}))
    for name, config in ALGORITHMS.items()
}
