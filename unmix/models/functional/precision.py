"""Full precision under autocast."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def full_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method on tensors without autocast; half-precision arguments become float32, float64 stays, None too."""

    @wraps(function)
    def run(self: Any, *args: Tensor | None) -> Any:
        with torch.autocast(next(x.device.type for x in args if x is not None), enabled=False):
            return function(self, *map(_full, args))

    return run


def _full(x: Tensor | None) -> Tensor | None:
    return x if x is None or x.dtype not in (torch.float16, torch.bfloat16) else x.float()
