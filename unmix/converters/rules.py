"""Names of tensors in two codes, and the translation between them."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from torch import Tensor

Rename = Callable[[str], str]
PADDED_STEM = dict(kernel_size=3, stride=1, padding=2, maxpool=False)  # images of 32 px become 34 px
MOMENTUM = 'momentum_encoder.'
FIELDS = {'#': r'(\d+)', '*': r'(.+)'}
CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    'none': (lambda x: x, lambda x: x),
    'transpose': (lambda x: x.T.contiguous(), lambda x: x.T.contiguous()),
    'scalar': (lambda x: x.reshape(()), lambda x: x.reshape(1)),
}


@cache
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern in which ``#`` is a number and ``*`` the rest of a name."""
    return re.compile(''.join(FIELDS.get(part, re.escape(part)) for part in re.split(r'([#*])', pattern)))


@dataclass(frozen=True)
class Rule:
    """``ours`` and ``theirs`` name the same tensor. ``#`` stands for a number, ``*`` for the rest of the name.

    Args:
        ours: Pattern of the name here.
        theirs: Pattern of the name there, with the same fields in the same order.
        change: How the values change on the way in; they change back on the way out. ``'none'``, ``'transpose'``, or
            ``'scalar'``: shape (1,) there and () here.
    """

    ours: str
    theirs: str
    change: str = 'none'


class Drop(NamedTuple):
    """Pattern of the tensors of theirs that are left out, and the reason."""

    theirs: str
    reason: str


QUEUE = (Rule('head.queue.features', 'queue', 'transpose'), Rule('head.queue.pointer', 'queue_ptr', 'scalar'))


def perceptron(ours: str, theirs: str) -> tuple[Rule, ...]:
    """Return the rules for a Sequential, and for a single linear layer of the same name."""
    return (Rule(f'{ours}.layers.#.*', f'{theirs}.#.*'), Rule(f'{ours}.fc.*', f'{theirs}.*'))


def after(prefix: str) -> Rename:
    """Return a function that puts ``prefix`` before a name of torchvision's ResNet."""
    return lambda name: prefix + name


def child(prefix: str, children: tuple[str, ...]) -> Rename:
    """Return a function that renames tensors of torchvision's ResNet to those of a Sequential of its ``children``."""

    def rename(name: str) -> str:
        first, _, rest = name.partition('.')
        return f'{prefix}{children.index(first)}.{rest}'

    return rename


def both(query: Rename, key: Rename) -> dict[str, Rename]:
    """Return the renaming functions of the backbone and of the momentum encoder's backbone."""
    return {'backbone': query, MOMENTUM + 'backbone': key}


def rename_in(
    tensors: Mapping[str, Tensor], rules: Iterable[Rule], drops: Iterable[Drop]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Translate their names to ours; return the tensors, and the names that were left out with the reason.

    Raises:
        ValueError: If two tensors get the same name, or no rule knows a name.
    """
    state, left = _rename(tensors, [(rule.theirs, rule.ours, CHANGES[rule.change][0]) for rule in rules])
    dropped = {name: drop.reason for drop in drops for name in left if compile_pattern(drop.theirs).fullmatch(name)}
    unknown = [name for name in left if name not in dropped]
    if unknown:
        raise ValueError(
            f'{len(unknown)} tensors have names that the rules do not know: {", ".join(unknown[:4])}'
            f'{", ..." if len(unknown) > 4 else ""}. The checkpoint is of another family, or of a newer version of it.'
        )
    return state, dropped


def rename_out(tensors: Mapping[str, Tensor], rules: Iterable[Rule]) -> tuple[dict[str, Tensor], list[str]]:
    """Translate our names to theirs; return the tensors, and the names that no rule knows."""
    return _rename(tensors, [(rule.ours, rule.theirs, CHANGES[rule.change][1]) for rule in rules])


def _rename(
    tensors: Mapping[str, Tensor], rules: list[tuple[str, str, Callable[[Tensor], Tensor]]]
) -> tuple[dict[str, Tensor], list[str]]:
    state: dict[str, Tensor] = {}
    left = []
    for name, tensor in tensors.items():
        for pattern, target, change in rules:
            if match := compile_pattern(pattern).fullmatch(name):
                new = re.sub(r'[#*]', '{}', target).format(*match.groups())
                if new in state:
                    raise ValueError(f'Two tensors of the checkpoint become {new}; the second one is {name}.')
                state[new] = change(tensor)
                break
        else:
            left.append(name)
    return state, left
