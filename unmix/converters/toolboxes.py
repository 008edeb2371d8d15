"""Other toolboxes for self-supervised learning. Sources: the modules that write the names."""

from unmix.converters.family import Encoder, Family, Layout
from unmix.converters.naming import (
    CHILDREN,
    MOMENTUM,
    PADDED_STEM,
    QUEUE,
    TORCHVISION,
    both,
    perceptron,
    resnet,
)
from unmix.converters.rules import Drop, Rule

MM_DROPS = (
    Drop('data_preprocessor.*', 'mean and std; the config has them'),
    Drop('encoder_q.*', 'the same as backbone and neck'),
    Drop('encoder_k.steps', 'a counter'),
    Drop('target_net.steps', 'a counter'),
    Drop('neck.bn.*', 'the same as projection_neck.1'),
    Drop('neck.norm.*', 'the same as projection_neck.1'),
    Drop('head.*', 'state of a loss'),
)


def nonlinear(ours: str, theirs: str) -> tuple[Rule, ...]:
    """Rules for mmselfsup's NonLinearNeck of two layers."""
    names = (('0', 'fc0'), ('1', 'bn0'), ('3', 'fc1'), ('4', 'bn1'))
    return tuple(Rule(f'{ours}.layers.{a}.*', f'{theirs}.{b}.*') for a, b in names)


TOOLBOXES = (
    Family(
        name='mmselfsup',
        source='mmselfsup and mmpretrain, MoCo: epoch_200.pth',
        rules=(
            *resnet('backbone.', 'backbone.'),
            Rule('neck.layers.#.*', 'neck.mlp.#.*'),
            Rule('neck.fc.*', 'neck.fc.*'),
            *resnet('momentum_encoder.backbone.', 'encoder_k.module.0.'),
            Rule('momentum_encoder.neck.layers.#.*', 'encoder_k.module.1.mlp.#.*'),
            Rule('momentum_encoder.neck.fc.*', 'encoder_k.module.1.fc.*'),
            *QUEUE,
        ),
        encoders=both(
            'backbone.',
            'encoder_k.module.0.',
            TORCHVISION,
            neck=('neck.mlp.#', 'neck.fc'),
            momentum_neck=('encoder_k.module.1.mlp.#', 'encoder_k.module.1.fc'),
        ),
        marks=('backbone.conv1.weight', 'neck.*'),
        drops=MM_DROPS,
        entries={'': 'state_dict'},
    ),
    Family(
        name='mmselfsup-swav',
        source='mmselfsup and mmpretrain, SwAV: epoch_200.pth',
        rules=(*resnet('backbone.', 'backbone.'), *perceptron('neck', 'neck.projection_neck')),
        encoders=(Encoder(('backbone.',), heads={'neck': ('neck.projection_neck', 'neck.projection_neck.#')}),),
        marks=('backbone.conv1.weight', 'neck.projection_neck.*'),
        drops=MM_DROPS,
        entries={'': 'state_dict'},
    ),
    Family(
        name='mmselfsup-simclr',
        aliases=('mmselfsup-byol',),
        source='mmselfsup and mmpretrain, SimCLR and BYOL: epoch_200.pth',
        rules=(
            *resnet('backbone.', 'backbone.'),
            *nonlinear('neck', 'neck'),
            *nonlinear('predictor', 'head.predictor'),
            *resnet('momentum_encoder.backbone.', 'target_net.module.0.'),
            *nonlinear('momentum_encoder.neck', 'target_net.module.1'),
        ),
        encoders=(
            Encoder(
                ('backbone.',),
                heads={
                    'neck': ('neck.fc0 neck.bn0 relu neck.fc1 neck.bn1', 'neck.fc0 neck.bn0 relu neck.fc1'),
                    'predictor': ('head.predictor.fc0 head.predictor.bn0 relu head.predictor.fc1',),
                },
            ),
            Encoder(
                ('target_net.module.0.',),
                ours=MOMENTUM,
                heads={'neck': ('target_net.module.1.fc0 target_net.module.1.bn0 relu target_net.module.1.fc1',)},
            ),
        ),
        marks=('backbone.conv1.weight', 'neck.fc0.weight'),
        drops=MM_DROPS,
        entries={'': 'state_dict'},
    ),
    Family(
        name='lightly',
        source="lightly's examples on torchvision's ResNet: a checkpoint of Lightning",
        rules=(
            *resnet('backbone.', 'backbone.', CHILDREN),
            *perceptron('neck', 'projection_head.layers'),
            *perceptron('predictor', 'prediction_head.layers'),
            *resnet('momentum_encoder.backbone.', 'backbone_momentum.', CHILDREN),
            *perceptron('momentum_encoder.neck', 'projection_head_momentum.layers'),
            Rule('head.prototypes.weight', 'prototypes.heads.0.weight'),
        ),
        encoders=(
            Encoder(
                ('backbone.',),
                Layout('0', '1', ('4', '5', '6', '7')),
                heads={'neck': ('projection_head.layers.#',), 'predictor': ('prediction_head.layers.#',)},
            ),
            Encoder(
                ('backbone_momentum.',),
                Layout('0', '1', ('4', '5', '6', '7')),
                ours=MOMENTUM,
                heads={'neck': ('projection_head_momentum.layers.#',)},
            ),
        ),
        marks=('backbone.0.weight', 'backbone.7.0.conv1.weight'),
        drops=(
            Drop('criterion.*', 'state of a loss'),
            Drop('prototypes.*', 'prototypes of another form'),
            Drop('online_*', 'a monitor'),
        ),
        entries={'': 'state_dict'},
    ),
    Family(
        name='solo-learn',
        source='solo-learn: a checkpoint of Lightning; its 3x3 stem pads by 2',
        rules=(
            *resnet('backbone.', 'backbone.'),
            *perceptron('neck', 'projector'),
            *perceptron('predictor', 'predictor'),
            *resnet('momentum_encoder.backbone.', 'momentum_backbone.'),
            *perceptron('momentum_encoder.neck', 'momentum_projector'),
        ),
        encoders=(
            Encoder(
                ('backbone.',),
                heads={'neck': ('projector', 'projector.#'), 'predictor': ('predictor', 'predictor.#')},
            ),
            Encoder(
                ('momentum_backbone.',), ours=MOMENTUM, heads={'neck': ('momentum_projector', 'momentum_projector.#')}
            ),
        ),
        marks=('backbone.conv1.weight', 'projector.*'),
        drops=(
            Drop('classifier.*', 'a monitor'),
            Drop('momentum_classifier.*', 'a monitor'),
            Drop('prototypes.*', 'prototypes of another form'),
            Drop('queue', 'two queues, one a view; there is one here'),
            Drop('queue_ptr', 'two queues, one a view; there is one here'),
        ),
        entries={'': 'state_dict'},
        small_stem=PADDED_STEM,
    ),
)
