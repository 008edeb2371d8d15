"""The list of families, and the detection of a checkpoint's family."""

import difflib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unmix.converters.containers import tensors_of
from unmix.converters.family import Family, UnknownFamily
from unmix.converters.libraries import LIBRARIES
from unmix.converters.published import PUBLISHED
from unmix.converters.rules import Drop, Rule, compile_pattern

OURS = (
    'backbone.conv#.*',
    'backbone.bn#.*',
    'backbone.layer#.*',
    'backbone.network.*',
    'backbone.l_to_ab.*',
    'backbone.ab_to_l.*',
    'neck.fc.*',
    'neck.layers.#.*',
    'neck.last.*',
    'neck.necks.#.*',
    'predictor.*',
    'head.*',
    'momentum_encoder.backbone.*',
    'momentum_encoder.neck.*',
)
UNMIX = Family(
    name='unmix',
    source='this package',
    extra_rules=tuple(Rule(name, name) for name in OURS),
    resnets={},
    marks=('backbone.*',),
    drops=(Drop('control.*', 'the random network beside an evaluation'),),
    suffixes=('.safetensors', '.onnx'),
)
FAMILIES = (*PUBLISHED, *LIBRARIES)


def names() -> list[str]:
    """Return the names of all families, this package first."""
    return [UNMIX.name, *(name for family in FAMILIES for name in (family.name, *family.aliases))]


def find_family(name: str) -> Family:
    """Return the family of a name; if there is none, a ValueError names the nearest ones."""
    for family in (UNMIX, *FAMILIES):
        if name in (family.name, *family.aliases):
            return family
    near = difflib.get_close_matches(name, names(), n=3)
    raise ValueError(
        f'There is no family {name!r}. {f"Did you mean {chr(32).join(near)}? " if near else ""}They are '
        f'{", ".join(names())}. The kind of a file follows from its suffix: .pth, .safetensors, .pkl, .onnx.'
    )


def translates(family: Family, name: str) -> bool:
    """Return whether a rule of the family matches a name of theirs."""
    return any(compile_pattern(rule.theirs).fullmatch(name) for rule in family.rules)


def objections(family: Family, found: Mapping[str, Tensor]) -> list[str]:
    """Return the reasons against a family: marks that no name matches, and names that no rule matches."""
    drops = [compile_pattern(drop.theirs) for drop in family.drops]
    strange = [
        name for name in found if not translates(family, name) and not any(drop.fullmatch(name) for drop in drops)
    ]
    missing = [mark for mark in family.marks if not any(map(compile_pattern(mark).fullmatch, found))]
    return [f'{mark} is missing' for mark in missing] + strange


def detect(content: Any, source: str) -> Family:
    """Return the family of a checkpoint, found by the names of its tensors.

    Raises:
        UnknownFamily: If no family fits; the message has the families that translate most names, and the reasons.
    """
    others = []
    for family in (UNMIX, *FAMILIES):
        tensors = tensors_of(content, family, source)
        found = objections(family, tensors)
        if not found:
            return family
        others.append((-sum(translates(family, name) for name in tensors), family.name, found))
    nearest = '; '.join(
        f'{name}: {", ".join(found[:3])}{", ..." if len(found) > 3 else ""}' for _, name, found in sorted(others)[:3]
    )
    raise UnknownFamily(
        f'{source} is of no family that is known: {", ".join(names())}. The nearest ones, with the reasons '
        f'against them: {nearest}. If the file is a variant of one of them, name it to see the exact error.'
    )
