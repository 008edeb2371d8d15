"""The only door from a model to the Runner's clock."""

from typing import NamedTuple

from mmengine.logging import MessageHub


class Clock(NamedTuple):
    """Where a training stands.

    Attributes:
        seed: The run's seed, 0 outside a Runner.
        iteration: Training iterations done, 0 outside a Runner.
        max_iterations: Iterations of the whole run, 0 outside a Runner.
        max_epochs: Epochs of the whole run, 0 outside a Runner.
        epoch: Epochs done, 0 outside a Runner.
    """

    seed: int
    iteration: int
    max_iterations: int
    max_epochs: int
    epoch: int


def read_clock() -> Clock:
    """Read what MMEngine's Runner has told the message hub (RuntimeInfoHook, before each iteration)."""
    hub = MessageHub.get_current_instance()
    return Clock(*(int(hub.get_info(key, 0) or 0) for key in ('seed', 'iter', 'max_iters', 'max_epochs', 'epoch')))
