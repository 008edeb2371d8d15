"""Self-distillation without labels."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

from torch import nn

from unmix.models.algorithms.base import MIXTURE, View
from unmix.models.algorithms.byol import BYOL
from unmix.models.necks.projectors import DINONeck
from unmix.registry import MODELS
from unmix.utils.numbers import check_number


@MODELS.register_module()
class DINO(BYOL):
    """`DINO <https://arxiv.org/abs/2104.14294>`_: BYOL's step without a predictor, with small crops as further queries.

    ``loss = mean over targets j < num_targets and queries i != j of head(s_i, t_j)``, with a :class:`DINOHead`. With
    Un-Mix the mixture of view 0 takes its place in both networks.

    Each crop is encoded on its own; the release encodes crops of one size together, which matters to BatchNorm only.

    Args:
        momentum: Share of the teacher's old weights that stays, at the start; it rises to 1.
        num_views: Number of crops V, the large ones first.
        num_targets: Number of large crops, which the teacher sees.
        freeze_epochs: Epochs in which the last layer of the neck does not learn.
        **kwargs: As in :class:`BaseAlgorithm`; the neck is a :class:`DINONeck`.

    Raises:
        ValueError: If there are no targets, or more than views; if ``freeze_epochs`` is negative.
    """

    neck: DINONeck

    def __init__(
        self, momentum: float = 0.996, num_views: int = 2, num_targets: int = 2, freeze_epochs: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(predictor=None, momentum=momentum, num_views=num_views, **kwargs)
        if not 1 <= num_targets <= num_views:
            raise ValueError(
                f'model.num_targets is {num_targets} and model.num_views {num_views}: the teacher sees the large '
                'crops, at least 1 and at most all. DINO has 2.'
            )
        check_number('model.freeze_epochs', freeze_epochs, least=0, whole=True)
        self.num_targets, self.freeze_epochs = num_targets, freeze_epochs
        self.pairs = tuple((i, j) for j in range(num_targets) for i in range(num_views) if i != j)
        self.pair_weight, self.mixture_weight = 1 / len(self.pairs), 1 / len(self.mixture_pairs)

    @property
    def mixture_pairs(self) -> tuple[tuple[View, View], ...]:
        """The mixture in the place of view 0, in both directions."""
        targets = tuple((MIXTURE, j) for j in range(1, self.num_targets))
        return targets + tuple((i, MIXTURE) for i in range(1, self.num_views))

    def frozen_parameters(self) -> Iterable[nn.Parameter]:
        """Return also the neck's last layer in the first epochs."""
        last = self.neck.last.parameters() if self.step.epoch < self.freeze_epochs else ()
        return chain(super().frozen_parameters(), last)
