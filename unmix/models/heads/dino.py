"""Cross-entropy with a teacher that is centred and sharpened."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unmix.models.functional.precision import full_precision
from unmix.models.heads.base import BaseHead
from unmix.registry import MODELS
from unmix.utils.dist import concat_all_gather
from unmix.utils.numbers import check_number, check_sizes


@MODELS.register_module()
class DINOHead(BaseHead):
    """Predict the teacher's distribution over K outputs (`DINO <https://arxiv.org/abs/2104.14294>`_, Eqs. 1 to 4).

    ``loss = mean_n -sum_k softmax((t_n - center) / teacher_temperature)_k log softmax(s_n / temperature)_k``

    The centre is a slow average of the teacher's outputs for the clean views of all ranks; it moves after the step,
    ``center <- center_momentum * center + (1 - center_momentum) * mean(t)``. The teacher's temperature rises in a line
    over the first epochs, ``warmup_temperature`` in epoch 0 and ``teacher_temperature`` in the last of them.
    Cross-entropy is linear in the target, so with Un-Mix the mixture predicts the mixed target of both images.

    Args:
        dim: Number of outputs K.
        temperature: Of the student.
        teacher_temperature: Of the teacher, after the warm-up.
        warmup_temperature: Of the teacher, in epoch 0.
        warmup_epochs: Length of the warm-up; 0 for none.
        center_momentum: Share of the old centre that stays.

    Attributes:
        center: (K,).
    """

    unit_length = False  # outputs are logits
    center: Tensor

    def __init__(
        self,
        dim: int = 65536,
        temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        warmup_temperature: float = 0.04,
        warmup_epochs: int = 0,
        center_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        check_sizes('head', dim=dim)
        given = dict(
            temperature=temperature, teacher_temperature=teacher_temperature, warmup_temperature=warmup_temperature
        )
        for name, value in given.items():
            check_number(f'head.{name}', value, above=0)
        check_number('head.warmup_epochs', warmup_epochs, least=0, whole=True)
        check_number('head.center_momentum', center_momentum, least=0, most=1)
        self.temperature, self.teacher_temperature = temperature, teacher_temperature
        self.warmup_temperature, self.warmup_epochs = warmup_temperature, warmup_epochs
        self.center_momentum = center_momentum
        self.register_buffer('center', torch.zeros(dim))

    def target_temperature(self) -> float:
        """Return the teacher's temperature in the epoch of this step."""
        share = min(self.step.epoch / max(self.warmup_epochs - 1, 1), 1.0) if self.warmup_epochs else 1.0
        return self.warmup_temperature + (self.teacher_temperature - self.warmup_temperature) * share

    @full_precision
    def shared(self, query: Tensor) -> Tensor:
        """Return the student's log-probabilities (N, K)."""
        return (query / self.temperature).log_softmax(1)

    @full_precision
    def prepare(self, target: Tensor) -> Tensor:
        """Return the teacher's probabilities (N, K)."""
        return ((target - self.center) / self.target_temperature()).softmax(1)

    def terms(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the loss of outputs (N, K), or their :meth:`shared`, and the teacher's probabilities (N, K)."""
        return self.each(query, target, shared).mean()

    @full_precision
    def each(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the losses (N,) of outputs (N, K), or their :meth:`shared`, and the probabilities (N, K)."""
        return -(target * (self.shared(query) if shared is None else shared)).sum(1)

    def forward(self, query: Tensor, target: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the loss of the student's and the teacher's outputs, both (N, K)."""
        return self.terms(query, self.prepare(target), shared)

    @torch.no_grad()
    def update(self, queries: Mapping[Any, Tensor], targets: Mapping[Any, Tensor]) -> None:
        """Move the centre towards the mean output of the teacher for all views."""
        mean = torch.stack([target.to(self.center.dtype).mean(0) for target in targets.values()]).mean(0, keepdim=True)
        self.center = self.center.lerp(concat_all_gather(mean).mean(0), 1 - self.center_momentum)
