"""Clustering images, and classifying them into the clusters."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unmix.models.algorithms.multi_crop import MultiCropAlgorithm
from unmix.models.heads.deepcluster import DeepClusterV2Head
from unmix.models.heads.instances import check_index
from unmix.registry import MODELS
from unmix.utils.clock import read_clock
from unmix.utils.rng import generator


@MODELS.register_module()
class DeepClusterV2(MultiCropAlgorithm):
    """`DeepCluster-v2 <https://arxiv.org/abs/2006.09882>`_ of the SwAV authors; see :class:`DeepClusterV2Head`.

    All crops of an image are queries, its clusters of the epoch are their target. :class:`ClusterHook` fills the bank
    before the first epoch and clusters it before each.

    Un-Mix, which the release does not have here: the mixtures are of the even crops, the label of both images in the
    share in which they are held,

    ``loss_unmix = lam * head(m, y) + (1 - lam) * head(reverse(m), y)``

    Raises:
        ValueError: In training, with fewer than 2 crops, without instance ids, or before the first clustering.
    """

    head: DeepClusterV2Head
    pairs = ((0, 0),)
    _clustered = False

    def start_step(self) -> None:
        """Check, once, that there are clusters."""
        if not self._clustered:
            if int(self.head.clustered_epoch) < 0:
                raise ValueError(
                    "DeepClusterV2 has no clusters yet: set default_hooks.cluster to dict(type='ClusterHook'), or call "
                    'model.remember(inputs, index) for all images and model.cluster(0).'
                )
            self._clustered = True

    def views(self, inputs: Sequence[Tensor]) -> list[Sequence[Tensor]]:
        """Return one view, all crops."""
        if len(inputs) < 2:
            raise ValueError(f'DeepClusterV2 needs at least 2 crops of an image; the pipeline gives {len(inputs)}.')
        return [inputs]

    def mix(self, views: Sequence[Any]) -> tuple[Any, float | Tensor]:
        """Mix the even crops."""
        return super().mix([views[0][0::2]])

    def encode_target(self, view: Any, query: Tensor | None, index: Tensor | None) -> Tensor:
        """Return the instance ids, which the head has labels of."""
        return check_index(index, self.head.num_instances)

    @torch.no_grad()
    def remember(self, inputs: Sequence[Tensor], index: Tensor) -> None:
        """Note the features of crops 0 and 1 without a training step; each crop is encoded on its own."""
        features = torch.stack([self.encode(crop) for crop in inputs[:2]], 1)
        self.head.update({0: features}, {0: index})

    def cluster(self, epoch: int) -> None:
        """Cluster the features noted so far: the labels of ``epoch``."""
        self.head.cluster(epoch, lambda h: generator('kmeans', read_clock().seed, epoch, h))
