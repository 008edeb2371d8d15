"""Training: loops, hooks, optimiser wrappers, learning-rate schedules."""

from . import hooks, loops, optimizers, schedulers

__all__ = ['hooks', 'loops', 'optimizers', 'schedulers']
