"""Rules and encoders that several families share."""

from unmix.converters.family import Encoder, Layout
from unmix.converters.rules import Rule

PADDED_STEM = dict(kernel_size=3, stride=1, padding=2, maxpool=False)  # images of 32 px become 34 px
PLAIN = ('conv1', 'bn1', 'layer1', 'layer2', 'layer3', 'layer4')
SEQUENTIAL = ('0', '1', '3', '4', '5', '6')
CHILDREN = ('0', '1', '4', '5', '6', '7')
MOMENTUM = 'momentum_encoder.'
QUEUE = (Rule('head.queue.features', 'queue', 'transpose'), Rule('head.queue.pointer', 'queue_ptr', 'scalar'))
CLASSIFIER = (Rule('head.fc.*', 'fc.*'),)
TORCHVISION = Layout()


def resnet(ours: str, theirs: str, names: tuple[str, ...] = PLAIN) -> tuple[Rule, ...]:
    """Rules for the stem and the stages of a ResNet."""
    return tuple(Rule(f'{ours}{a}.*', f'{theirs}{b}.*') for a, b in zip(PLAIN, names, strict=True))


def perceptron(ours: str, theirs: str) -> tuple[Rule, ...]:
    """Rules for a Sequential, or one linear layer under the same name."""
    return (Rule(f'{ours}.layers.#.*', f'{theirs}.#.*'), Rule(f'{ours}.fc.*', f'{theirs}.*'))


def pair(a: str, b: str, names: tuple[str, ...] = PLAIN, fc: str = 'fc') -> tuple[Rule, ...]:
    """Rules for an encoder and its momentum encoder, ResNets with projector."""
    return (
        *resnet('backbone.', a, names),
        *perceptron('neck', a + fc),
        *resnet(MOMENTUM + 'backbone.', b, names),
        *perceptron(MOMENTUM + 'neck', b + fc),
    )


def detectron2(i: int) -> tuple[Rule, ...]:
    """Rules for stage ``i``, from 1, of a ResNet."""
    ours, theirs = f'backbone.layer{i}.#.', f'res{i + 1}.#.'
    return (
        Rule(ours + 'downsample.1.*', theirs + 'shortcut.norm.*'),
        Rule(ours + 'downsample.0.*', theirs + 'shortcut.*'),
        Rule(ours + 'bn#.*', theirs + 'conv#.norm.*'),
        Rule(ours + 'conv#.*', theirs + 'conv#.*'),
    )


def both(a: str, b: str, layout: Layout, neck: tuple[str, ...], **momentum: tuple[str, ...]) -> tuple[Encoder, ...]:
    """An encoder and its momentum encoder, each followed by a projector; ``neck`` of the second one if it differs."""
    second = momentum.get('momentum_neck', neck)
    return (Encoder((a,), layout, '', {'neck': neck}), Encoder((b,), layout, MOMENTUM, {'neck': second}))
