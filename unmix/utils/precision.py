"""Full precision under autocast."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def full_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method on tensors without autocast; half-precision arguments become float32, float64 stays."""

    @wraps(function)
    def run(self: Any, *args: Tensor) -> Any:
        with torch.autocast(args[0].device.type, enabled=False):
            return function(self, *(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in args))

    return run
