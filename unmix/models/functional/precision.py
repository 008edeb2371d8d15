"""Full precision under autocast."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def full_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a method without autocast; tensors of half precision become float32, all other arguments stay."""

    @wraps(function)
    def run(self: Any, *args: Any) -> Any:
        with torch.autocast(next(x.device.type for x in args if isinstance(x, Tensor)), enabled=False):
            return function(self, *map(_full, args))

    return run


def _full(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16) else x
