"""How many numbers a loss computes at a time."""

import torch
from torch import Tensor

# Numbers in one table on an accelerator, 256 MiB in float32: a large table needs few kernel launches. On a CPU a table
# should fit in the cache of a core.
ON_ACCELERATORS = 1 << 26


def numbers_at_a_time(device: torch.device, on_cpu: int) -> int:
    """Return the size of a table: ``on_cpu``, or :data:`ON_ACCELERATORS` on any other device."""
    return on_cpu if device.type == 'cpu' else ON_ACCELERATORS


def in_one_table(numbers: int, weight: Tensor) -> bool:
    """Return whether a table of so many numbers is stored whole for the backward pass, instead of read in chunks.

    On accelerators, if it has at most :data:`ON_ACCELERATORS` numbers, or no more than the gradient and the momentum of
    the weight that it is made with.
    """
    return weight.device.type != 'cpu' and numbers <= max(ON_ACCELERATORS, 2 * weight.numel())
