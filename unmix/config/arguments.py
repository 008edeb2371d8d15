"""What a class or function takes as arguments: their names, and of numbers and switches the kind."""

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, Union, get_args, get_origin

from torch import Tensor

KINDS: dict[type, str] = {bool: 'True or False', int: 'a whole number', float: 'a number'}


def arguments(function: Callable) -> tuple[dict[str, inspect.Parameter], bool]:
    """Return the keywords that a class or function takes, and whether it takes others too.

    A class that hands ``**kwargs`` on takes its base classes' arguments.
    """
    classes = function.__mro__ if inspect.isclass(function) else [function]
    found: dict[str, inspect.Parameter] = {}
    for cls in classes:
        if inspect.isclass(cls) and '__init__' not in vars(cls):
            continue
        if cls is object:
            break
        parameters = inspect.signature(cls.__init__ if inspect.isclass(cls) else cls).parameters.values()
        own = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        found = own | found
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return _without_self(found), False
    return _without_self(found), True


def _without_self(parameters: dict[str, inspect.Parameter]) -> dict[str, inspect.Parameter]:
    return {name: parameter for name, parameter in parameters.items() if name != 'self'}


def valid_arguments(function: Callable) -> tuple[set[str], bool]:
    """Return the names of :func:`arguments`, and whether others are taken too."""
    found, takes_any = arguments(function)
    return set(found), takes_any


def expected_instead(parameter: inspect.Parameter, value: Any) -> str | None:
    """Say what an argument takes instead of ``value``; None if that may be right.

    Arguments that are annotated as (or, without annotation, have a default that is) a number or a switch, and nothing
    else besides None and tensors, do not take texts, lists and dicts; a whole number is no 0.5.
    """
    kinds = _kinds(parameter)
    if not kinds or not kinds <= KINDS.keys() or value is None:
        return None
    number = float in kinds
    if not isinstance(value, str | list | tuple | Mapping) and (number or not isinstance(value, float)):
        return None
    expected = KINDS[max(kinds, key=list(KINDS).index)]
    return expected + (f', {value} without quotes' if isinstance(value, str) and _is_number(value) else '')


def _kinds(parameter: inspect.Parameter) -> set[Any]:
    annotation, default = parameter.annotation, parameter.default
    if annotation is parameter.empty:  # an unannotated 1 may take 0.5, and an unannotated True anything
        return {float} if type(default) in (int, float) else set()
    if isinstance(annotation, str):  # by ``from __future__ import annotations``
        named = {kind.__name__: kind for kind in KINDS}
        return {named.get(part, part) for part in annotation.replace(' ', '').split('|')} - {'None'}
    union = get_origin(annotation) in (Union, types.UnionType)
    return set(get_args(annotation) if union else [annotation]) - {type(None), Tensor}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
