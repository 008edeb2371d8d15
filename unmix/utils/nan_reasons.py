"""Why a loss is NaN, from the layer that knows."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_reasons: ContextVar[list[str] | None] = ContextVar('reasons', default=None)


def give_nan(reason: str) -> None:
    """Stop with ``reason``; but where the loss is watched, note it, and the caller's result is to be NaN.

    So a training can leave this batch out, as that of any other loss that is not finite, and no rank is left waiting
    in a collective by one that has stopped.

    Raises:
        ValueError: If nobody watches (:func:`watching`).
    """
    reasons = _reasons.get()
    if reasons is None:
        raise ValueError(reason)
    if reason not in reasons:
        reasons.append(reason)


@contextmanager
def watching() -> Iterator[list[str]]:
    """Watch the losses that are computed in this context, for NaN; yields the reasons that are given in it."""
    reasons: list[str] = []
    token = _reasons.set(reasons)
    try:
        yield reasons
    finally:
        _reasons.reset(token)
