"""Swapping assignments between views."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from unmix.models.algorithms.base import MIXTURE
from unmix.models.algorithms.multi_crop import MultiCropAlgorithm
from unmix.models.heads.swav import SwAVHead
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

    @property
    def query_views(self) -> list[int]:
        """Both views: they are encoded jointly."""
        return [0, 1]

    def start_step(self) -> None:
        """Normalise the prototypes; freeze them in the first steps."""
        self.head.start_step(sum(self._call))

    def views(self, inputs: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """Split the crops into even and odd ones."""
        if self.unmix is not None:
            self.check_pairs(inputs)
        if len(inputs) < 2:
            raise ValueError(f'SwAV needs at least 2 crops of an image; the pipeline gives {len(inputs)}.')
        return [inputs[0::2], inputs[1::2]]

    def _loss_unmix(
        self, mixture: Any, lam: float | Tensor, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]
    ) -> Tensor:
        """Un-Mix with codes computed once: those of the reverse are the reverse of the mixture's, without pushes."""
        assert self.unmix is not None
        head, query, target = self.head, queries[MIXTURE], targets[1]
        reverse = query.flip(0)
        every_call = head.queue_in_use and head.queue_push == 'every_call'
        if every_call:
            head.update({0: queries[0]}, {1: target})
        q0, q1 = head.codes(query, target)
        r0, r1 = q0.flip(0), q1
        if every_call:
            head.update({0: query}, {1: target})
            r0, r1 = head.codes(reverse, target)
        predicting = reverse if self.flip_mode == 'full' else query
        return self.unmix(
            query,
            lam,
            [target],
            lambda query, target: head.terms(query, target, q0, q1),
            lambda query, target: head.terms(predicting, target, r0, r1),
        )

    def update_head(self, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        """Push the clean crops; with ``'every_call'`` they have been, and the mixture, and its reverse is left."""
        last = queries[0]
        if MIXTURE in queries and self.head.queue_push == 'every_call':
            last = queries[MIXTURE].flip(0)
        self.head.update({0: last}, targets)
