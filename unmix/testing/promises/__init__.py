"""What every method promises, with and without Un-Mix: one function for each promise."""

from unmix.testing.promises import mixture, state, step
from unmix.testing.promises.core import ALL, Promise

# The first promise that is broken is told: what moves in a step, then its losses, then the mixture.
PROMISES: dict[str, Promise] = {
    name: promise
    for module in (state, step, mixture)
    for name, promise in ALL.items()
    if promise.check.__module__ == module.__name__
}

__all__ = ['PROMISES', 'Promise']
