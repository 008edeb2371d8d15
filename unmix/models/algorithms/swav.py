"""Swapping assignments between views."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from unmix.models.algorithms.base import MIXTURE
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

    def _losses(
        self, mixture: Any, lam: float | Tensor, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]
    ) -> dict[str, Tensor]:
        clean, target = self.head.look(queries[0], 0), self.head.look(targets[1], 1)
        losses = dict(loss_base=self.head.swapped_loss(clean, target).sum())
        if self.unmix is not None:
            losses['loss_unmix'] = self._loss_unmix(mixture, lam, queries, targets, target)
        return losses

    def _loss_unmix(
        self,
        mixture: Any,
        lam: float | Tensor,
        queries: Mapping[int, Tensor],
        targets: Mapping[int, Tensor],
        target: Look | None = None,
    ) -> Tensor:
        """Un-Mix with one Sinkhorn: the code of view 1 is known, that of the reverse is the mixture's in reverse order.

        But where each loss pushes to the queues, as released, all codes are new: four Sinkhorns.
        """
        assert self.unmix is not None
        head, query, other = self.head, queries[MIXTURE], targets[1]
        every_call = head.queue_in_use and head.queue_push == 'every_call'
        if every_call:
            head.update({0: queries[0]}, {1: other})
        mixed = head.look(query, 0)
        seen = again = head.look(other, 1) if target is None or every_call else target
        reverse = mixed.flip()
        if every_call:
            head.update({0: query}, {1: other})
            reverse, again = reverse._replace(code=head.assign(reverse.scores[:, 0], 0)), head.look(other, 1)
        if self.flip_mode == 'code_only':
            reverse = reverse._replace(predictions=mixed.predictions)
        return self.unmix(
            query,
            lam,
            [other],
            lambda *_: head.swapped_loss(mixed, seen),
            lambda *_: head.swapped_loss(reverse, again),
        )

    def update_head(self, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        """Push the clean crops; with ``'every_call'`` they have been, and the mixture, and its reverse is left."""
        last = queries[0]
        if MIXTURE in queries and self.head.queue_push == 'every_call':
            last = queries[MIXTURE].flip(0)
        self.head.update({0: last}, targets)
