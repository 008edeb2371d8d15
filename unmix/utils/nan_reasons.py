"""Reasons of NaN losses, reported by layers."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_reasons: ContextVar[list[str] | None] = ContextVar('reasons', default=None)


def give_nan(reason: str) -> None:
    """Record ``reason``; the caller then returns NaN. Outside of :func:`watching` it raises instead.

    A training can thus skip the batch, as that of any other loss that is not finite, and no rank waits in a collective
    for one that has stopped.

    Raises:
        ValueError: Outside of :func:`watching`.
    """
    reasons = _reasons.get()
    if reasons is None:
        raise ValueError(reason)
    if reason not in reasons:
        reasons.append(reason)


@contextmanager
def watching() -> Iterator[list[str]]:
    """Yield the list of reasons that :func:`give_nan` records in this context."""
    reasons: list[str] = []
    token = _reasons.set(reasons)
    try:
        yield reasons
    finally:
        _reasons.reset(token)
