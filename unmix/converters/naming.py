"""Rules and names that several families share."""

from collections.abc import Callable

from unmix.converters.rules import Rule

PADDED_STEM = dict(kernel_size=3, stride=1, padding=2, maxpool=False)  # images of 32 px become 34 px
MOMENTUM = 'momentum_encoder.'
QUEUE = (Rule('head.queue.features', 'queue', 'transpose'), Rule('head.queue.pointer', 'queue_ptr', 'scalar'))


def perceptron(ours: str, theirs: str) -> tuple[Rule, ...]:
    """Rules for a Sequential, or one linear layer under the same name."""
    return (Rule(f'{ours}.layers.#.*', f'{theirs}.#.*'), Rule(f'{ours}.fc.*', f'{theirs}.*'))


def after(prefix: str) -> Callable[[str], str]:
    """Names of a torchvision ResNet that is an attribute of another module."""
    return lambda name: prefix + name


def child(prefix: str, children: tuple[str, ...]) -> Callable[[str], str]:
    """Names of a Sequential of these children of a torchvision ResNet, in this order."""

    def rename(name: str) -> str:
        first, _, rest = name.partition('.')
        return f'{prefix}{children.index(first)}.{rest}'

    return rename


def both(query: Callable[[str], str], key: Callable[[str], str]) -> dict[str, Callable[[str], str]]:
    """A backbone and that of the momentum encoder."""
    return {'backbone': query, MOMENTUM + 'backbone': key}
