"""Swapping assignments between views."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from unmix.models.algorithms.base import MIXTURE, View
from unmix.models.algorithms.multi_crop import MultiCropAlgorithm
from unmix.models.heads.swav import Look, SwAVHead
from unmix.registry import MODELS

FLIP_MODES = ('full', 'code_only')


@MODELS.register_module()
class SwAV(MultiCropAlgorithm):
    """`SwAV <https://arxiv.org/abs/2006.09882>`_: the code of a crop is predicted from the other crops of the image.

    View 0 are the crops 0, 2, ..., view 1 the crops 1, 3, ...; see :class:`SwAVHead` for the loss. With Un-Mix
    mixtures of all crops of view 0 take their places, ``S(m, b)`` being the head's loss with them and view 1:

    ``loss_unmix = lam * S(m, b) + (1 - lam) * S(reverse(m), b)``

    Args:
        flip_mode: ``'full'``: as written, the author's own formula (Un-Mix issue #7); ``'code_only'``: as released and
            as in the published CIFAR numbers: in the second term only the code of the first mixture is computed from
            the reverse, the predictions stay in order. So predicting view 1's code from the mixture has weight 1
            whatever ``lam``.
        **kwargs: As in :class:`BaseAlgorithm`; the head is a :class:`SwAVHead`.

    Raises:
        ValueError: If ``flip_mode`` is another one; in training, if there are fewer than 2 crops, or with Un-Mix an odd
            number of crops of a resolution.
    """

    head: SwAVHead

    def __init__(self, flip_mode: str = 'full', **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if flip_mode not in FLIP_MODES:
            raise ValueError(f'model.flip_mode is {flip_mode!r}; it is one of {", ".join(map(repr, FLIP_MODES))}.')
        self.flip_mode = flip_mode
        released = flip_mode == 'code_only' or self.head.queue_push == 'every_call'
        if self.unmix is not None and self.unmix.pairs == 'once' and released:
            raise ValueError(
                f"model.unmix.pairs is 'once', but model.flip_mode is {flip_mode!r} and model.head.queue_push "
                f"{self.head.queue_push!r}. The released forms need all mixtures: set model.flip_mode to 'full' and "
                "model.head.queue_push to 'once_clean', or model.unmix.pairs to 'all'."
            )

    @property
    def query_views(self) -> list[int]:
        """Both views: they are encoded jointly."""
        return [0, 1]

    def views(self, inputs: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """Split the crops into even and odd ones."""
        if self.unmix is not None:
            self.check_pairs(inputs)
        if len(inputs) < 2:
            raise ValueError(f'SwAV needs at least 2 crops of an image; the pipeline gives {len(inputs)}.')
        return [inputs[0::2], inputs[1::2]]

    def match_mixture(
        self, queries: Mapping[View, Tensor], targets: Sequence[tuple[Look, Look]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the terms of both orders with one Sinkhorn: the code of the reverse is the mixture's, reversed.

        With ``queue_push='every_call'`` the codes are new, as released: the first term sees queues that hold the clean
        crops, the second one queues that hold the mixture too.
        """
        head, mixture, partners = self.head, queries[MIXTURE], self.partners
        ((target, again),) = targets
        if head.pushes_every_call:
            clean, other = queries[0], queries[1]
            straight, target = head.look(mixture, 0, [clean]), head.look(other, 1, [other])
            reverse = Look(*map(partners.turn, straight))
            reverse = reverse._replace(code=head.assign(reverse.scores[:, 0], 0, [clean, mixture]))
            again = head.look(other, 1, [other, other])
        else:
            straight = head.shared(mixture)
            reverse = Look(*map(partners.turn, straight))
        if self.flip_mode == 'code_only':
            reverse = reverse._replace(predictions=straight.predictions)
        return [(head.terms(mixture, target, straight), head.terms(partners.turn(mixture), again, reverse))]

    def update_head(self, queries: Mapping[View, Tensor], targets: Mapping[View, Tensor]) -> None:
        """Push the clean crops; with ``'every_call'`` then the mixture, and then its reverse."""
        pushed = [queries[0]]
        if MIXTURE in queries and self.head.pushes_every_call:
            pushed += [queries[MIXTURE], self.partners.turn(queries[MIXTURE])]
        for query in pushed:
            self.head.update({0: query}, targets)
