"""Whitening MSE."""

from unmix.models.algorithms.simclr import SimCLR
from unmix.models.heads.wmse import WMSEHead
from unmix.registry import MODELS


@MODELS.register_module()
class WMSE(SimCLR):
    """`W-MSE <https://arxiv.org/abs/2007.06346>`_: SimCLR's step with whitening in the place of negatives.

    Args:
        num_views: 2 or 4 in the paper.
        **kwargs: As in :class:`SimCLR`; ``head`` is a :class:`WMSEHead`.
    """

    head: WMSEHead

    def start_step(self) -> None:
        """Open the stream of this step's sub-batches."""
        self.head.step = self.step_key
