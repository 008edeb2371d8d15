"""Position of a training, read from the Runner."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from mmengine.logging import MessageHub


class Clock(NamedTuple):
    """Position of a training.

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


@dataclass(frozen=True)
class Step:
    """Position of a training step: its random numbers and schedules are a function of it.

    Attributes:
        seed: The run's seed.
        iteration: Training iterations done before it, as the Runner counts.
        number: Steps done before it within this iteration; outside a Runner, where ``iteration`` stays 0, all steps.
        epoch: Epochs done before it.
    """

    seed: int = 0
    iteration: int = 0
    number: int = 0
    epoch: int = 0

    @property
    def key(self) -> tuple[int, int, int]:
        """Key of the step's random numbers."""
        return self.seed, self.iteration, self.number

    @property
    def count(self) -> int:
        """Steps done before it, in a Runner or outside of one."""
        return self.iteration + self.number


def read_clock() -> Clock:
    """Read the position that MMEngine's RuntimeInfoHook writes to the message hub before each iteration."""
    hub = MessageHub.get_current_instance()
    return Clock(*(int(hub.get_info(key, 0) or 0) for key in ('seed', 'iter', 'max_iters', 'max_epochs', 'epoch')))


def is_trained(runner: Any) -> bool:
    """Whether the Runner has trained its model. Reading ``runner.iter`` alone would build the training loop."""
    return not isinstance(runner._train_loop, dict | None) and runner.iter > 0


def iterations_done(runner: Any) -> int:
    """Return the iterations that the Runner has trained, without building the training loop."""
    return int(runner.iter) if is_trained(runner) else 0
