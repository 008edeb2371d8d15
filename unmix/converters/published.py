"""The codes of the papers. Sources: the released files, and the modules that write them."""

from unmix.converters.family import Family
from unmix.converters.naming import MOMENTUM, PADDED_STEM, QUEUE, after, both, child, perceptron
from unmix.converters.rules import Drop, Rule

# What MoCo's demo puts into a Sequential: the children of torchvision's ResNet without the max-pool.
SMALL = ('conv1', 'bn1', 'relu', 'layer1', 'layer2', 'layer3', 'layer4', 'avgpool')
CONTRAST = Drop('contrast.params', 'settings and constants of the loss, settled anew in the first step')

PUBLISHED = (
    Family(
        name='unmix-cifar',
        source='Un-Mix and the demo of MoCo on CIFAR: model_last.pth',
        extra_rules=(*perceptron('neck', 'encoder_q.net.9'), *perceptron(MOMENTUM + 'neck', 'encoder_k.net.9'), *QUEUE),
        resnets=both(child('encoder_q.net.', SMALL), child('encoder_k.net.', SMALL)),
        marks=('encoder_q.net.0.weight',),
        entries={'': 'state_dict'},
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
        entries={'': 'state_dict'},
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
        drops=(Drop('prototypes.prototypes#.weight', 'clusters, found anew before the first epoch'),),
        entries={'': 'state_dict'},
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
        stems=('imagenet', 'cifar', 'cifar-pool'),
    ),
)
