"""Joint embedding with views around a centre."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unmix.mixing import UnMix
from unmix.models.algorithms.base import MIXTURE, Features, View
from unmix.models.algorithms.simclr import SimCLR
from unmix.registry import MODELS


@MODELS.register_module()
class LeJEPA(SimCLR):
    """`LeJEPA <https://arxiv.org/abs/2511.08544>`_: all views are pulled to the centre of the large ones.

    ``loss = mean over views v of head(z_v, c) + regulariser``, ``c = mean of z_0 ... z_(G-1)``, with a
    :class:`LeJEPAHead`. The centre has a gradient. With Un-Mix the mixture of view 0 is one more view: it is pulled to
    the centres of both of its images, ``loss_unmix = lam * head(m, c) + (1 - lam) * head(reverse(m), c)``.

    Args:
        num_views: Number of views V, the large ones first.
        num_global: Number G of large views.
        **kwargs: As in :class:`BaseAlgorithm`.

    Raises:
        ValueError: If there are no large views, or more than views.
    """

    def __init__(self, num_views: int = 2, num_global: int = 2, **kwargs: Any) -> None:
        super().__init__(num_views=num_views, **kwargs)
        if not 1 <= num_global <= num_views:
            raise ValueError(
                f'model.num_global is {num_global} and model.num_views {num_views}: the centre is that of the large '
                'views, at least 1 and at most all. LeJEPA has 2.'
            )
        self.num_global = num_global
        self.pairs = tuple((i, 0) for i in range(num_views))
        self.pair_weight, self.mixture_weight = 1 / num_views, 1.0

    def check_unmix(self, unmix: UnMix) -> None:
        """Check also that view 0 is encoded, which the centre needs."""
        super().check_unmix(unmix)
        if unmix.replace:
            self.refuse_replacement('LeJEPA needs it for the centre')

    @property
    def mixture_pairs(self) -> tuple[tuple[View, View], ...]:
        """The mixture meets the centre."""
        return ((MIXTURE, 0),)

    def encode_targets(self, views: Sequence[Any], queries: Mapping[View, Tensor], index: Tensor | None) -> Features:
        """Return the centre (N, D) of the large views as the one target."""
        return {0: torch.stack([queries[i] for i in range(self.num_global)]).mean(0)}
