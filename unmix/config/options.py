"""Values of ``--cfg-options``: MMEngine's forms, and dicts and texts with blanks beside."""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mmengine.config import Config, ConfigDict

_PAIRS = {'(': ')', '[': ']', '{': '}'}
_DICT = re.compile(r'dict\s*\((.*)\)', re.DOTALL)


def parse_value(text: str) -> Any:
    """Return the value that a text of ``KEY=VALUE`` stands for.

    ===========================  =========================================================
    ``3``, ``1e-3``, ``true``    a number, True or False
    ``None``                     None
    ``a,b`` and ``[a, b]``       a list; nested ones too
    ``(a, b)``                   a tuple
    ``dict(a=1)``, ``{'a': 1}``  a dict; MMEngine reads it as a text
    anything else                a text, with its blanks, which MMEngine removes
    ===========================  =========================================================

    Quotes around a value are removed, and keep its commas; around a list, tuple or dict they change nothing.

    Raises:
        ValueError: If brackets are not closed, or an item of a dict is no pair.
    """
    text = text.strip()
    if _quoted(text):
        inside = text[1:-1].strip()
        return parse_value(inside) if inside[:1] in _PAIRS or _DICT.fullmatch(inside) else _scalar(text[1:-1])
    found = _DICT.fullmatch(text)
    if found is not None and _closes(text, text.index('(')):
        return dict(_pair(part, '=') for part in _split(found[1], ','))
    if text[:1] in _PAIRS and _closes(text, 0):
        parts = _split(text[1:-1], ',')
        if text[0] == '{':
            return dict(_pair(part, ':') for part in parts)
        return tuple(map(parse_value, parts)) if text[0] == '(' else list(map(parse_value, parts))
    if text[:1] in _PAIRS or ',' in text:
        parts = _split(text, ',')
        if len(parts) > 1 or text.endswith(','):
            return list(map(parse_value, parts))
    return _scalar(text)


def _scalar(text: str) -> Any:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return {'true': True, 'false': False}.get(text.lower(), None if text == 'None' else text)


def _pair(text: str, sign: str) -> tuple[str, Any]:
    key, *rest = map(str.strip, _split(text, sign, 1))
    if not rest or not key:
        raise ValueError(f'{text.strip()!r} is no pair KEY{sign}VALUE of a dict')
    value = rest[0]
    return key[1:-1] if _quoted(key) else key, value[1:-1] if _quoted(value) else parse_value(value)


def _quoted(text: str) -> bool:
    """Return whether quotes enclose all of a text."""
    return len(text) > 1 and text[0] in '\'"' and text.find(text[0], 1) == len(text) - 1


def _closes(text: str, start: int) -> bool:
    """Return whether the bracket at ``start`` is closed by the last character."""
    return _scan(text, start)[1] == len(text) - 1


def _split(text: str, sign: str, limit: int | None = None) -> list[str]:
    """Split a text at a sign outside of brackets and quotes; an empty last part is dropped."""
    cuts = _scan(text, None, sign)[0][:limit]
    parts = [text[start:end] for start, end in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(text)], strict=True)]
    return parts if parts[-1].strip() else parts[:-1]


def _scan(text: str, start: int | None, sign: str = '') -> tuple[list[int], int]:
    """Read a text up to its end, or to the bracket that closes the one at ``start``.

    Returns:
        The places of ``sign`` outside of brackets and quotes, and the place of the end.

    Raises:
        ValueError: If a bracket or quote is not closed.
    """
    places: list[int] = []
    expected: list[str] = []
    quote, fresh = '', True
    for place in range(start or 0, len(text)):
        char = text[place]
        if quote:
            quote = '' if char == quote else quote
        elif char in '\'"' and fresh:  # an apostrophe within a word is none
            quote = char
        elif char in _PAIRS:
            expected.append(_PAIRS[char])
        elif char in _PAIRS.values():
            if not expected or expected.pop() != char:
                raise ValueError(f'{char!r} closes no bracket in {text!r}')
            if start is not None and not expected:
                return places, place
        elif char == sign and not expected:
            places.append(place)
        fresh = char in ',=:([{' or (fresh and char.isspace())
    if expected or quote:
        raise ValueError(f'{expected[-1] if expected else quote} is missing in {text!r}')
    return places, len(text)


def merge_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Merge options as ``Config.merge_from_dict`` does, which cannot change None and the items of lists.

    ``KEY._delete_=True`` empties a dict, before all other options.

    Args:
        cfg: The config, which is changed.
        options: Values by dotted keys; the number of an item is the key of a list.

    Raises:
        ValueError: If a key leads through a number or text, or to an item that a list does not have.
    """
    for key, value in sorted(options.items(), key=lambda option: not option[0].endswith('._delete_')):
        node, last = _parent(cfg._cfg_dict, key)
        is_dict = isinstance(value, Mapping)
        if isinstance(node, list) and not (is_dict and not value.get('_delete_')):
            node[int(last)] = {k: v for k, v in value.items() if k != '_delete_'} if is_dict else value
        elif last == '_delete_' and isinstance(node, dict):
            if value:
                node.clear()
        else:
            cfg.merge_from_dict({key: value})


def _parent(content: ConfigDict, key: str) -> tuple[Any, str]:
    """Return the dict or list that a key is in, or the last one on the way to it, and the last part of the key."""
    node: Any = content
    parts = key.split('.')
    for depth, part in enumerate(parts):
        place = '.'.join(parts[:depth])
        if isinstance(node, list) and not (part.isdecimal() and int(part) < len(node)):
            raise ValueError(
                f'--cfg-options {key}: {place} has {len(node)} item(s), numbered from 0, and no {part!r}. To add one, '
                f'give the whole list: {place}="[dict(type=...), ...]".'
            )
        if not isinstance(node, list | Mapping):
            raise ValueError(
                f'--cfg-options {key}: {place} is {node!r} ({type(node).__name__}), which has no entries. Set it as a '
                f'whole: {place}=VALUE, or {place}="dict(...)".'
            )
        index: Any = int(part) if isinstance(node, list) else part
        if depth == len(parts) - 1 or (isinstance(node, Mapping) and part not in node):
            break
        node = _below(node, index)
    return node, parts[-1]


def _below(node: Any, index: int | str) -> Any:
    """Return an entry of a dict or list; None becomes a dict."""
    if node[index] is None:
        node[index] = ConfigDict()
    return node[index]
