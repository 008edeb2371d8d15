"""Whitening MSE."""

from unmix.models.algorithms.simclr import SimCLR
from unmix.registry import MODELS


@MODELS.register_module()
class WMSE(SimCLR):
    """`W-MSE <https://arxiv.org/abs/2007.06346>`_: SimCLR's step with whitening in the place of negatives.

    Args:
        num_views: 2 or 4 in the paper.
        **kwargs: As in :class:`SimCLR`; ``head`` is a :class:`WMSEHead`.
    """
