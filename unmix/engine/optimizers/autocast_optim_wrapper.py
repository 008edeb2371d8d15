"""bfloat16 training on every device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from unmix.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Runs the forward pass under ``torch.autocast`` in bfloat16, on whatever device the model is.

    Weights, gradients and optimiser stay float32. bfloat16 has float32's range, so no loss is scaled; MMEngine's
    ``AmpOptimWrapper`` scales always and refuses CPUs. float16 needs the scaling: use ``AmpOptimWrapper`` on CUDA.

    Args:
        dtype: ``'bfloat16'``, the only choice.
        **kwargs: Arguments of ``OptimWrapper``.

    Raises:
        ValueError: If ``dtype`` is another one.
    """

    def __init__(self, dtype: str | torch.dtype = 'bfloat16', **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if dtype not in ('bfloat16', torch.bfloat16):
            raise ValueError(
                f'optim_wrapper.dtype is {dtype!r}; AutocastOptimWrapper knows only bfloat16, without loss scaling. '
                "For float16 on CUDA use optim_wrapper.type='AmpOptimWrapper'."
            )

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast the forward pass, and synchronise gradients only where the optimiser steps."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield
