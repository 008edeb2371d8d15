"""Barlow Twins whose features must be linear in the image."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from unmix.mixing import UnMix
from unmix.models.algorithms.base import MIXTURE, View
from unmix.models.algorithms.simclr import SimCLR
from unmix.models.heads.barlow_twins import BarlowTwinsHead
from unmix.registry import MODELS


@MODELS.register_module()
class MixedBarlowTwins(SimCLR):
    """`Mixed Barlow Twins <https://arxiv.org/abs/2312.02151>`_: a mixture has the mixture of the features.

    Mixture n holds image n in view 0, with the share ``lam``, and its partner ``pi(n)`` in view 1. With ``C`` the
    cross-correlation of the head, and v over all views,

    ``loss_unmix = loss_weight * off_diagonal * sum_v || C(m, v) - lam C(view 0, v) - (1 - lam) C(pi(view 1), v) ||^2``

    of the queries. Nothing is detached. Without Un-Mix it is Barlow Twins.

    This is the form of the paper, and of the release for small images; its form for ImageNet has ``C(view 1, view 1)``
    in the place of ``C(view 0, view 1)``. The release divides by the unbiased deviation and then by N, so that its
    ``C`` is ours times (N - 1) / N.

    Args:
        head: Config of a :class:`BarlowTwinsHead`.
        **kwargs: As in :class:`SimCLR`.

    Raises:
        ValueError: If the head is another one, or ``unmix`` has mixtures of one half only, or in the place of view 0.
    """

    head: BarlowTwinsHead

    def __init__(self, backbone: dict[str, Any], head: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(backbone=backbone, head=head, **kwargs)
        if not isinstance(self.head, BarlowTwinsHead):
            raise ValueError(
                f"model.head.type is '{type(self.head).__name__}'; MixedBarlowTwins compares cross-correlations, which "
                "'BarlowTwinsHead' computes. With other heads use model.type='SimCLR'."
            )

    def check_unmix(self, unmix: UnMix) -> None:
        """Check also that all images are encoded, and all mixtures."""
        super().check_unmix(unmix)
        if unmix.replace:
            self.refuse_replacement('Mixed Barlow Twins compares the mixture with it')
        if unmix.pairs == 'once':
            raise ValueError(
                "model.unmix.pairs is 'once', but Mixed Barlow Twins standardises the mixtures of the whole batch. "
                "Set it to 'all'; every=2 makes it cheaper, too."
            )

    def mix(self, views: Sequence[Any]) -> tuple[Any, float | Tensor]:
        """Mix view 0 with the partners in view 1."""
        assert self.unmix is not None
        return self.unmix.mix(views[0], self.mixing_rng(), views[1])

    def mixture_loss(
        self,
        mixture: Any,
        lam: float | Tensor,
        queries: Mapping[View, Tensor],
        prepared: Mapping[View, Any],
        targets: Mapping[View, Tensor],
    ) -> Tensor:
        """Return the loss of the mixture, as the class gives it; ``prepared`` and ``targets`` are not needed."""
        assert self.unmix is not None
        views = [queries[i] for i in range(self.num_views)]
        second = self.partners.second(queries[1])
        return self.unmix.loss_weight * self.head.nonlinearity(lam, queries[MIXTURE], queries[0], second, *views)
