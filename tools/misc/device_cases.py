"""What the cases of ``check_device.py`` have in common; import it first, because it finds the benchmarks."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parents[1] / 'benchmarks'))


class Options(NamedTuple):
    """The device, and whether sizes are small."""

    device: str
    quick: bool


class Outcome(NamedTuple):
    """``'PASS'``, ``'FAIL'`` or ``'SKIP'``, a line for the table, and numbers for the JSON file."""

    status: str
    value: str
    details: dict[str, Any] = {}


class Case(NamedTuple):
    """A check, in a section."""

    section: str
    name: str
    run: Callable[[], Outcome]


def judged(good: bool, value: str, **details: Any) -> Outcome:
    """Return PASS or FAIL."""
    return Outcome('PASS' if good else 'FAIL', value, details)
