"""``--cfg-options``: values in MMEngine's forms, dicts and texts with blanks beside; and which keys they may change."""

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from mmengine.config import Config, ConfigDict
from torch.utils.data import DataLoader

from unmix.config.check import BUILDER_KEYS, RUNNER_KEYS, UNTYPED, arguments, suggest, walk

_PAIRS = {'(': ')', '[': ']', '{': '}'}
_DICT = re.compile(r'dict\s*\((.*)\)', re.DOTALL)
FOLLOWED = {'data_root', 'data_preprocessor'}  # variables whose change by an option load_config carries to their uses


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


def check_options(before: Mapping[str, Any], after: Mapping[str, Any], path: str = '', typed: bool = False) -> None:
    """Refuse keys that ``--cfg-options`` added where nothing reads them; what reads a dict below a type is up to it.

    Args:
        before: The config without the options.
        after: The config with the options; :func:`~unmix.config.check.check_config` checks the arguments of types.
        path: Dotted path of both, for the message.
        typed: Whether they are below a dict with a type.

    Raises:
        ValueError: It names the key and the nearest valid ones.
    """
    typed = typed or 'type' in after
    for key, value in after.items():
        place = f'{path}.{key}' if path else str(key)
        if key in before:
            if isinstance(value, Mapping) and isinstance(before[key], Mapping):
                check_options(before[key], value, place, typed)
            _check_kind(place, before[key], value)
            continue
        if typed or (isinstance(value, Mapping) and 'type' in value and path):
            continue
        valid = set(before)
        if not path:
            valid = valid | RUNNER_KEYS
        elif path in UNTYPED:
            valid = valid | UNTYPED[path]
        elif path.endswith('dataloader'):
            valid = valid | arguments(DataLoader)[0].keys() | BUILDER_KEYS['dataloader']
        if key not in valid:
            raise ValueError(f'--cfg-options {place}: the config has no such key. {suggest(str(key), valid)}')


def _check_kind(place: str, before: Any, after: Any) -> None:
    """Refuse a number or text where the config has a dict, or a list of dicts."""
    if isinstance(before, Mapping) and not isinstance(after, Mapping) and after is not None and not callable(after):
        example = f'{place}.{next(iter(before), "type")}=..., or {place}="dict(type=\'Name\', ...)"'
        raise ValueError(f'--cfg-options {place} is {after!r} ({type(after).__name__}); expected a dict: {example}.')
    if isinstance(before, list) and before and all(isinstance(item, Mapping) for item in before):
        items = after if isinstance(after, list | tuple) else [after]
        if after is not None and any(not isinstance(item, Mapping) for item in items):
            raise ValueError(
                f'--cfg-options {place} is {after!r} ({type(after).__name__}); expected a list of dicts: '
                f'{place}="[dict(type=\'Name\'), ...]", or one entry: {place}.0.type=Name.'
            )


def check_variables(before: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse to change a variable of a config file, such as ``max_epochs``: the file used it when it was read.

    Args:
        before: The config without the options.
        options: Values by dotted key.

    Raises:
        ValueError: It names the keys whose values came from the variable.
    """
    for option in options:
        name, _, rest = option.partition('.')
        if name not in before or name in RUNNER_KEYS | FOLLOWED:
            continue
        value = before[name]
        places = [
            path
            for path, node in walk(before)
            if path.partition('.')[0] not in ('', name) and type(node) is type(value) and node == value
        ]
        places = [path for path in places if path.rpartition('.')[2] == name] or places
        if places:
            keys = ' '.join(f'{path}.{rest}' if rest else path for path in places[:4])
            raise ValueError(
                f'--cfg-options {option}: {name} is a variable of the config file, which has used it already, so that '
                f'a change has no effect. Set where it was used: {keys}'
            )
