"""Tensor versions that count the steps of fused optimisers too.

A tensor's ``_version`` counts its changes in place, and tells who has to follow them: the momentum encoder, states that
are taken back. PyTorch's fused optimisers change parameters without counting. Importing this module makes them count,
in the whole process.
"""

from typing import Any

from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook


def count_fused_step(optimizer: Optimizer, *_: Any) -> None:
    """Count a step in the versions of what it has changed, if it was fused."""
    for group in optimizer.param_groups:
        if group.get('fused'):
            changed = [parameter for parameter in group['params'] if parameter.grad is not None]
            states = [optimizer.state[parameter].values() for parameter in changed]
            increment_version([*changed, *(x for values in states for x in values if isinstance(x, Tensor))])


register_optimizer_step_post_hook(count_fused_step)
