"""Random numbers of a training step."""

import numpy as np

from unmix.utils.clock import read_clock
from unmix.utils.rng import generator


class StepDraws:
    """Gives a model random numbers that are a function of seed, iteration and purpose."""

    _call = (-1, 0)  # the Runner's iteration, and the number of the step in it

    def _tick(self) -> None:
        """Count the steps that share one iteration of the Runner's clock: all of them outside a Runner."""
        iteration = read_clock().iteration
        last, calls = self._call
        self._call = (iteration, calls + 1 if iteration == last else 0)

    @property
    def step_key(self) -> tuple[int, ...]:
        """What this step's random numbers are a function of: seed, iteration, step in the iteration."""
        return read_clock().seed, *self._call

    def generator(self, purpose: str, *key: int) -> np.random.Generator:
        """Random numbers for ``purpose`` in this step: a function of (seed, iteration, key), nothing else."""
        return generator(purpose, *self.step_key, *key)
