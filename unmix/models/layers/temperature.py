"""Softmax temperatures: constant, scheduled or learned.

``head.temperature`` is a float, a tensor with one element, or a callable, such as a module, that returns either. A head
reads it in each call of its loss and keeps no copy, so a schedule may replace it, or its value, between two steps.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from unmix.registry import MODELS

Temperature = float | Tensor | Callable[[], float | Tensor]


@MODELS.register_module()
class LearnableTemperature(BaseModule):
    """A temperature that is learned together with the network: ``temperature = min + exp(-logit_scale)``.

    `CLIP <https://arxiv.org/abs/2103.00020>`_ (Sec. 2.5) learns ``logit_scale`` too, with ``min=0``, and clips it after
    each step so that the temperature stays at least 0.01. Here ``min`` is approached but never reached, so the gradient
    never vanishes for good and no step has to clip.

    ``logit_scale`` is an ordinary parameter: it is in the state dict, and the optimiser trains it with the learning
    rate and weight decay of all others (:class:`LARS` and :class:`LARC` have their own rules). Weight decay pulls the
    temperature towards ``min + 1``; this switches it off:
    ``optim_wrapper.paramwise_cfg=dict(custom_keys={'head.temperature': dict(decay_mult=0.0)})``.

    Args:
        init: Temperature at the start.
        min: Lower bound of the temperature.

    Attributes:
        logit_scale: (1,); FSDP knows no parameters without dimensions.

    Raises:
        ValueError: If not ``0 <= min < init``.
    """

    def __init__(
        self, init: float = 0.07, min: float = 0.01, init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None
    ) -> None:
        super().__init__(init_cfg)
        if not 0 <= min < init < math.inf:
            raise ValueError(
                f'head.temperature.min is {min} and head.temperature.init is {init}; choose 0 <= min < init.'
            )
        self.min = min
        self.logit_scale = nn.Parameter(torch.tensor([-math.log(init - min)]))

    def forward(self) -> Tensor:
        """Return the temperature, ()."""
        return self.min + (-self.logit_scale[0]).exp()


def build_temperature(temperature: Temperature | dict[str, Any]) -> Temperature:
    """Return the temperature of a head's argument: the module of a config, or the argument itself.

    Raises:
        ValueError: As :func:`read_temperature`.
    """
    built: Temperature = MODELS.build(temperature) if isinstance(temperature, dict) else temperature
    read_temperature(built)
    return built


def read_temperature(temperature: Temperature) -> float | Tensor:
    """Return the current value: a float, or a tensor () of at least single precision, which may need a gradient.

    The value of a tensor is not checked, because an accelerator would have to be waited for.

    Raises:
        ValueError: If the value is neither a positive number nor a tensor with one floating-point element.
    """
    value = temperature() if callable(temperature) else temperature
    if isinstance(value, Tensor):
        if value.numel() != 1 or not value.is_floating_point():
            raise ValueError(
                f'head.temperature is a tensor of shape {tuple(value.shape)} and type {value.dtype}; it must have one '
                'floating-point element. Temperatures of each class or sample are not supported.'
            )
        return value.reshape(()).to(torch.promote_types(value.dtype, torch.float32))
    if not isinstance(value, Real) or not 0 < value < math.inf:
        raise ValueError(
            f"head.temperature is {value!r}; it must be positive: a number, or dict(type='LearnableTemperature')."
        )
    return value


def divide_query(query: Tensor, temperature: float | Tensor) -> tuple[Tensor, float]:
    """Divide a query by a temperature that is a tensor; return the query and the temperature that is left to apply.

    For :func:`eager_gradient`, which knows the derivative with respect to the query only: autograd then gets that of
    the temperature from the division. A float temperature is returned with the query unchanged.
    """
    return (query / temperature, 1.0) if isinstance(temperature, Tensor) else (query, temperature)
