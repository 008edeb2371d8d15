"""Families of papers and of toolboxes. Sources: the released files, and the modules that write them."""

from unmix.converters.family import Family
from unmix.converters.rules import MOMENTUM, PADDED_STEM, QUEUE, Drop, Rule, after, both, child, perceptron

# The Sequential of MoCo's demo: the children of torchvision's ResNet without the max-pool.
SMALL = ('conv1', 'bn1', 'relu', 'layer1', 'layer2', 'layer3', 'layer4', 'avgpool')
CONTRAST = Drop('contrast.params', 'settings and constants of the loss; the first step computes them again')
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
    """Return the rules for mmselfsup's NonLinearNeck of two layers."""
    names = (('0', 'fc0'), ('1', 'bn0'), ('3', 'fc1'), ('4', 'bn1'))
    return tuple(Rule(f'{ours}.layers.{a}.*', f'{theirs}.{b}.*') for a, b in names)


PUBLISHED = (
    Family(
        name='unmix-cifar',
        source='Un-Mix and the demo of MoCo on CIFAR: model_last.pth',
        extra_rules=(*perceptron('neck', 'encoder_q.net.9'), *perceptron(MOMENTUM + 'neck', 'encoder_k.net.9'), *QUEUE),
        resnets=both(child('encoder_q.net.', SMALL), child('encoder_k.net.', SMALL)),
        marks=('encoder_q.net.0.weight',),
        stems=('cifar',),
    ),
    Family(
        name='moco',
        aliases=('unmix-moco', 'moco-align-uniform'),
        source='MoCo v1 and v2, Un-Mix on ImageNet, MoCo with alignment and uniformity: checkpoint_0199.pth.tar',
        extra_rules=(*perceptron('neck', 'encoder_q.fc'), *perceptron(MOMENTUM + 'neck', 'encoder_k.fc'), *QUEUE),
        resnets=both(after('encoder_q.'), after('encoder_k.')),
        marks=('encoder_q.conv1.weight',),
        drops=(Drop('scalar_label', 'the constant 0, the label of the positive'),),
        prefix='module.',
    ),
    Family(
        name='swav',
        aliases=('unmix-swav', 'deepclusterv2'),
        source='SwAV, DeepCluster-v2, and Un-Mix on SwAV: checkpoint.pth.tar; its 3x3 stem pads by 2',
        extra_rules=(
            *perceptron('neck', 'projection_head'),
            Rule('head.prototypes.weight', 'prototypes.weight'),
        ),
        resnets={'backbone': after('')},
        marks=('conv1.weight', 'projection_head.*'),
        drops=(Drop('prototypes.prototypes#.weight', 'clusters; they are computed again before the first epoch'),),
        prefix='module.',
        stems=('imagenet', PADDED_STEM),
        any_width=True,
    ),
    Family(
        name='pic',
        aliases=('instdisc', 'simclr'),
        source='the PIC repository (PIC, InstDisc, SimCLR, MoCo): ckpt_epoch_200.pth',
        extra_rules=(
            Rule('neck.layers.0.*', 'encoder.fc1.*'),
            Rule('neck.layers.2.*', 'encoder.fc2.*'),
            Rule('neck.fc.*', 'encoder.fc.*'),
            Rule('momentum_encoder.neck.layers.0.*', 'encoder_k.fc1.*'),
            Rule('momentum_encoder.neck.layers.2.*', 'encoder_k.fc2.*'),
            Rule('momentum_encoder.neck.fc.*', 'encoder_k.fc.*'),
            Rule('head.weight', 'sim_matrix'),
            Rule('head.banks.0.features', 'memory'),
            *QUEUE,
        ),
        resnets=both(after('encoder.'), after('encoder_k.')),
        marks=('encoder.conv1.weight',),
        entries={'': 'model'},
        prefix='module.',
    ),
    Family(
        name='cmc',
        source='CMC, two branches: ckpt_epoch_200.pth',
        extra_rules=(
            Rule('neck.necks.0.fc.*', 'encoder.module.l_to_ab.fc.*'),
            Rule('neck.necks.1.fc.*', 'encoder.module.ab_to_l.fc.*'),
            Rule('head.banks.0.features', 'contrast.memory_l'),
            Rule('head.banks.1.features', 'contrast.memory_ab'),
        ),
        resnets={
            'backbone.l_to_ab': after('encoder.module.l_to_ab.'),
            'backbone.ab_to_l': after('encoder.module.ab_to_l.'),
        },
        marks=('encoder.module.l_to_ab.conv1.weight',),
        drops=(CONTRAST,),
        entries={'': 'model', 'contrast.': 'contrast'},
        any_width=True,
    ),
    Family(  # before cmc-instdisc, which would take it without its momentum encoder
        name='cmc-moco',
        source='MoCo in the CMC repository: current.pth',
        extra_rules=(
            Rule('neck.fc.*', 'encoder.module.fc.*'),
            Rule('momentum_encoder.neck.fc.*', 'model_ema.encoder.module.fc.*'),
            Rule('head.queue.features', 'contrast.memory'),
        ),
        resnets=both(after('encoder.module.'), after('model_ema.encoder.module.')),
        marks=('encoder.module.conv1.weight', 'model_ema.encoder.module.conv1.weight'),
        drops=(CONTRAST,),
        entries={'': 'model', 'contrast.': 'contrast', 'model_ema.': 'model_ema'},
    ),
    Family(
        name='cmc-instdisc',
        source='instance discrimination in the CMC repository: ckpt_epoch_200.pth',
        extra_rules=(
            Rule('neck.fc.*', 'encoder.module.fc.*'),
            Rule('head.banks.0.features', 'contrast.memory'),
        ),
        resnets={'backbone': after('encoder.module.')},
        marks=('encoder.module.conv1.weight',),
        drops=(CONTRAST,),
        entries={'': 'model', 'contrast.': 'contrast'},
    ),
    Family(
        name='htdt',
        aliases=('wmse', 'byol'),
        source='htdt (W-MSE, SimCLR, BYOL): w_mse_cifar10_999.pt; on STL-10 and Tiny-ImageNet the stem is cifar-pool',
        extra_rules=(
            Rule('neck.layers.4.*', 'bn_last.*'),
            Rule('neck.layers.#.*', 'head.#.*'),
            Rule('predictor.layers.#.*', 'pred.#.*'),
            Rule('momentum_encoder.neck.layers.#.*', 'head_t.#.*'),
        ),
        resnets=both(after('model.module.'), after('model_t.module.')),
        marks=('model.module.conv1.weight',),
        entries={'': None},
        stems=('imagenet', 'cifar', 'cifar-pool'),
    ),
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
    ),
    Family(
        name='mmselfsup-swav',
        source='mmselfsup and mmpretrain, SwAV: epoch_200.pth',
        extra_rules=perceptron('neck', 'neck.projection_neck'),
        resnets={'backbone': after('backbone.')},
        marks=('backbone.conv1.weight', 'neck.projection_neck.*'),
        drops=MM_DROPS,
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
            Drop('queue', 'one queue per view; this package has a single one'),
            Drop('queue_ptr', 'one queue per view; this package has a single one'),
        ),
        stems=('imagenet', PADDED_STEM),
    ),
)
