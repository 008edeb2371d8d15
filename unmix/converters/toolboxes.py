"""Other toolboxes for self-supervised learning. Sources: the modules that write the names."""

from unmix.converters.family import Family
from unmix.converters.naming import PADDED_STEM, QUEUE, after, both, child, perceptron
from unmix.converters.rules import Drop, Rule

ALL_BUT_FC = ('conv1', 'bn1', 'relu', 'maxpool', 'layer1', 'layer2', 'layer3', 'layer4', 'avgpool')
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
        extra_rules=(
            Rule('neck.layers.#.*', 'neck.mlp.#.*'),
            Rule('neck.fc.*', 'neck.fc.*'),
            Rule('momentum_encoder.neck.layers.#.*', 'encoder_k.module.1.mlp.#.*'),
            Rule('momentum_encoder.neck.fc.*', 'encoder_k.module.1.fc.*'),
            *QUEUE,
        ),
        resnets=both(after('backbone.'), after('encoder_k.module.0.')),
        marks=('backbone.conv1.weight', 'neck.*'),
        drops=MM_DROPS,
        entries={'': 'state_dict'},
    ),
    Family(
        name='mmselfsup-swav',
        source='mmselfsup and mmpretrain, SwAV: epoch_200.pth',
        extra_rules=perceptron('neck', 'neck.projection_neck'),
        resnets={'backbone': after('backbone.')},
        marks=('backbone.conv1.weight', 'neck.projection_neck.*'),
        drops=MM_DROPS,
        entries={'': 'state_dict'},
    ),
    Family(
        name='mmselfsup-simclr',
        aliases=('mmselfsup-byol',),
        source='mmselfsup and mmpretrain, SimCLR and BYOL: epoch_200.pth',
        extra_rules=(
            *nonlinear('neck', 'neck'),
            *nonlinear('predictor', 'head.predictor'),
            *nonlinear('momentum_encoder.neck', 'target_net.module.1'),
        ),
        resnets=both(after('backbone.'), after('target_net.module.0.')),
        marks=('backbone.conv1.weight', 'neck.fc0.weight'),
        drops=MM_DROPS,
        entries={'': 'state_dict'},
    ),
    Family(
        name='lightly',
        source="lightly's examples on torchvision's ResNet: a checkpoint of Lightning",
        extra_rules=(
            *perceptron('neck', 'projection_head.layers'),
            *perceptron('predictor', 'prediction_head.layers'),
            *perceptron('momentum_encoder.neck', 'projection_head_momentum.layers'),
            Rule('head.prototypes.weight', 'prototypes.heads.0.weight'),
        ),
        resnets=both(child('backbone.', ALL_BUT_FC), child('backbone_momentum.', ALL_BUT_FC)),
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
        extra_rules=(
            *perceptron('neck', 'projector'),
            *perceptron('predictor', 'predictor'),
            *perceptron('momentum_encoder.neck', 'momentum_projector'),
        ),
        resnets=both(after('backbone.'), after('momentum_backbone.')),
        marks=('backbone.conv1.weight', 'projector.*'),
        drops=(
            Drop('classifier.*', 'a monitor'),
            Drop('momentum_classifier.*', 'a monitor'),
            Drop('prototypes.*', 'prototypes of another form'),
            Drop('queue', 'two queues, one a view; there is one here'),
            Drop('queue_ptr', 'two queues, one a view; there is one here'),
        ),
        entries={'': 'state_dict'},
        stems=('imagenet', PADDED_STEM),
    ),
)
