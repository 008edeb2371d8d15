"""What a promise is, and how a broken one is told."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from unmix.testing.method import MethodUnderTest, Unmix

ROUNDING = 1e-12  # of float64, for features of unit length and the losses of a small batch
ADVICE_COMMIT = 'Do not override BaseAlgorithm.loss or after_step; override the methods that they call.'


class Promise(NamedTuple):
    """A promise, and the forms of a method that it is checked for.

    Attributes:
        check: Raises AssertionError if the promise is broken.
        forms: ``'plain'``, ``'unmix'`` or both.
    """

    check: Callable[[MethodUnderTest, Unmix], None]
    forms: tuple[str, ...]


ALL: dict[str, Promise] = {}


def promise(*forms: str) -> Callable[[Callable[[MethodUnderTest, Unmix], None]], Callable[..., None]]:
    """Enter a function in :data:`ALL` under its own name."""

    def enter(check: Callable[[MethodUnderTest, Unmix], None]) -> Callable[..., None]:
        ALL[check.__name__] = Promise(check, forms)
        return check

    return enter


def require(condition: bool, seen: str, expected: str, to_do: str) -> None:
    """Raise AssertionError unless ``condition`` holds."""
    if not condition:
        raise AssertionError(f'  seen: {seen}\n  expected: {expected}\n  to do: {to_do}')


def refusal(call: Callable[[], object], kind: type[Exception], parts: Sequence[str], what: str, to_do: str) -> None:
    """Require that ``call`` raises ``kind`` with a message that has all ``parts``."""
    expected = f'{what} raises {kind.__name__} with a message that has {" and ".join(map(repr, parts))}'
    try:
        call()
    except kind as error:
        require(all(part in str(error) for part in parts), f'{kind.__name__}: {error}', expected, to_do)
        return
    require(False, 'no error', expected, to_do)
