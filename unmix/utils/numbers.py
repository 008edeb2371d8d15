"""Checks of numbers that a config gives."""

import math
from numbers import Integral, Real
from typing import Any


def check_number(
    key: str,
    value: Any,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    whole: bool = False,
) -> None:
    """Check that ``value`` is finite, ``above < value`` and ``least <= value <= most``, and with ``whole`` an integer.

    Raises:
        ValueError: If it is not; it names the config key, what was received and what was expected.
    """
    kind = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if kind and math.isfinite(value) and value > above and least <= value <= most:
        return
    limits = [
        f'{word} {limit:g}'
        for word, limit in (('at least', least), ('above', above), ('at most', most))
        if math.isfinite(limit)
    ]
    expected = ' '.join(['a whole number' if whole else 'a finite number', ', '.join(limits)]).strip()
    raise ValueError(f'{key} is {value!r}; it must be {expected}.')


def check_sizes(prefix: str, **sizes: Any) -> None:
    """Check that the numbers below a config key, such as ``'head'``, are whole and positive.

    Raises:
        ValueError: If one is not.
    """
    for name, value in sizes.items():
        check_number(f'{prefix}.{name}', value, least=1, whole=True)
