"""Methods that discriminate instances: the target of a view is the number of its image."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unmix.models.algorithms.base import BaseAlgorithm, Features, View
from unmix.models.heads.instances import InstanceHead
from unmix.registry import MODELS


@MODELS.register_module()
class InstDisc(BaseAlgorithm):
    """`Instance discrimination <https://arxiv.org/abs/1805.01978>`_: a view must find the stored feature of its image.

    One view is used, and no second encoder. The head gives the target, see ``address`` of :class:`NCEHead`; with
    Un-Mix the mixture meets the target of either of its images. Further views in the batch are left alone.
    """

    pairs = ((0, 0),)
    head: InstanceHead

    def encode_target(self, view: Tensor, query: Tensor | None, index: Tensor | None) -> Tensor:
        """Return the head's target of the instances ``index`` (N,).

        Raises:
            ValueError: If the batch has no index, or one lies outside the bank.
        """
        return self.head.address(index)


@MODELS.register_module()
class CMC(InstDisc):
    """`Contrastive multiview coding <https://arxiv.org/abs/1906.05849>`_ of lightness and colour.

    Two encoders see the channels of one image in Lab or YCbCr (:class:`ColorPreprocessor`); each feature must find the
    other one's of the same image in its bank. Backbone :class:`TwoBranch`, neck :class:`TwoBranchNeck`, head
    :class:`CMCHead`; queries are (N, 2, D). Un-Mix mixes images of the converted colours, both branches alike.
    """

    def project(self, features: Tensor) -> Tensor:
        """Return the queries (N, 2, D), each of unit length, of backbone features (N, D1 + D2)."""
        return F.normalize(self.neck(features).unflatten(1, (2, -1)), dim=2)


@MODELS.register_module()
class PIC(InstDisc):
    """`Parametric instance classification <https://arxiv.org/abs/2006.14618>`_: one class for each image.

    All crops of an image are one view, queries (N, V, D), classified by :class:`PICHead`; crops are encoded one by one,
    so BatchNorm sees each on its own, as released. With Un-Mix, the mixture of the first (large) crop is classified
    as both of its images: one more encoding, of one crop.
    """

    def views(self, inputs: Sequence[Tensor]) -> Sequence[Sequence[Tensor]]:
        """Return one view, the list of all crops, the large ones first."""
        return [inputs]

    def mix(self, views: Sequence[Sequence[Tensor]]) -> tuple[Any, float | Tensor]:
        """Mix the first crop."""
        assert self.unmix is not None
        if self.unmix.replace and len(views[0]) > 1:
            self.refuse_replacement(f'PIC mixes the first of its {len(views[0])} crops only')
        return super().mix([views[0][:1]])

    def encode_all(self, views: Mapping[View, Sequence[Tensor]]) -> Features:
        """Encode the crops of each view (N, V, D) and of the mixture (N, 1, D)."""
        return {name: torch.stack([self.encode(crop) for crop in crops], 1) for name, crops in views.items()}
