"""How many numbers a loss computes at a time."""

import torch

# Numbers in one table on an accelerator, 256 MiB in float32: a large table needs few kernel launches. On a CPU a table
# should fit in the cache of a core.
ON_ACCELERATORS = 1 << 26


def numbers_at_a_time(device: torch.device, on_cpu: int) -> int:
    """Return the size of a table: ``on_cpu``, or :data:`ON_ACCELERATORS` on any other device."""
    return on_cpu if device.type == 'cpu' else ON_ACCELERATORS
