"""Gradient accumulation."""

from mmengine.optim import OptimWrapper, OptimWrapperDict


def optim_wrappers(optim_wrapper: OptimWrapper | OptimWrapperDict) -> list[OptimWrapper]:
    """Return the wrappers of all optimisers."""
    return [*optim_wrapper.values()] if isinstance(optim_wrapper, OptimWrapperDict) else [optim_wrapper]


def between_steps(optim_wrapper: OptimWrapper | OptimWrapperDict) -> bool:
    """Whether no gradient waits for its optimiser step; a checkpoint has to hold those that do."""
    return all(w.should_update() for w in optim_wrappers(optim_wrapper) if isinstance(w, OptimWrapper))
