"""Gradient accumulation."""

from mmengine.optim import OptimWrapper, OptimWrapperDict


def between_steps(optim_wrapper: OptimWrapper | OptimWrapperDict) -> bool:
    """Whether no gradients are half accumulated; a checkpoint does not hold them."""
    wrappers = optim_wrapper.values() if isinstance(optim_wrapper, OptimWrapperDict) else [optim_wrapper]
    return all(wrapper.should_update() for wrapper in wrappers if hasattr(wrapper, 'should_update'))
