"""Names of tensors in two codes, and the translation between them."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

FIELDS = {'#': r'(\d+)', '*': r'(.+)'}
CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    'none': (lambda x: x, lambda x: x),
    'transpose': (lambda x: x.T.contiguous(), lambda x: x.T.contiguous()),
    'scalar': (lambda x: x.reshape(()), lambda x: x.reshape(1)),
}


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern in which ``#`` is a number and ``*`` the rest of a name."""
    return re.compile(''.join(FIELDS.get(part, re.escape(part)) for part in re.split(r'([#*])', pattern)))


@dataclass(frozen=True)
class Rule:
    """``ours`` and ``theirs`` name the same tensor; what ``#`` (a number) and ``*`` (the rest) stand for is the same.

    Args:
        ours: Pattern of the name here.
        theirs: Pattern of the name there, with the same fields in the same order.
        change: What happens to the values on the way in, and back on the way out: ``'none'``, ``'transpose'``, or
            ``'scalar'``, (1,) there and () here.
    """

    ours: str
    theirs: str
    change: str = 'none'

    @cached_property
    def inward(self) -> re.Pattern[str]:
        """Matches their names."""
        return compile_pattern(self.theirs)

    @cached_property
    def outward(self) -> re.Pattern[str]:
        """Matches our names."""
        return compile_pattern(self.ours)


class Drop(NamedTuple):
    """A tensor of theirs that has no place here, and why."""

    theirs: str
    reason: str


def rename_in(
    tensors: Mapping[str, Tensor], rules: Iterable[Rule], drops: Iterable[Drop]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Translate their names to ours; return the tensors, and the names that were left out with the reason.

    Raises:
        ValueError: If two tensors get the same name, or no rule knows a name.
    """
    state, left = _rename(tensors, [(rule.inward, rule.ours, CHANGES[rule.change][0]) for rule in rules])
    dropped = {name: drop.reason for drop in drops for name in left if compile_pattern(drop.theirs).fullmatch(name)}
    unknown = [name for name in left if name not in dropped]
    if unknown:
        raise ValueError(
            f'{len(unknown)} tensors have names that the rules do not know: {", ".join(unknown[:4])}'
            f'{", ..." if len(unknown) > 4 else ""}. The checkpoint is of another family, or of a newer version of it.'
        )
    return state, dropped


def rename_out(tensors: Mapping[str, Tensor], rules: Iterable[Rule]) -> tuple[dict[str, Tensor], list[str]]:
    """Translate our names to theirs; return the tensors, and the names for which there is none."""
    return _rename(tensors, [(rule.outward, rule.theirs, CHANGES[rule.change][1]) for rule in rules])


def _rename(
    tensors: Mapping[str, Tensor], rules: list[tuple[re.Pattern[str], str, Callable[[Tensor], Tensor]]]
) -> tuple[dict[str, Tensor], list[str]]:
    state: dict[str, Tensor] = {}
    left = []
    for name, tensor in tensors.items():
        for pattern, target, change in rules:
            if match := pattern.fullmatch(name):
                new = re.sub(r'[#*]', '{}', target).format(*match.groups())
                if new in state:
                    raise ValueError(f'Two tensors of the checkpoint become {new}; the second one is {name}.')
                state[new] = change(tensor)
                break
        else:
            left.append(name)
    return state, left
