"""Classification into the clusters of the last epoch. Shapes: N samples, V crops, D features, H heads, K prototypes."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unmix.models.functional.precision import full_precision
from unmix.models.functional.spherical_kmeans import spherical_kmeans
from unmix.models.heads.base import BaseHead
from unmix.models.heads.instances import check_index
from unmix.models.heads.swav import most_prototypes, too_many
from unmix.models.layers import Temperature, build_temperature, read_temperature
from unmix.registry import MODELS
from unmix.utils.dist import concat_all_gather
from unmix.utils.feature_statistics import usage_entropy
from unmix.utils.numbers import check_sizes
from unmix.utils.sizes import Misfit, Sizes

IGNORED = -100  # label of an image that no bank has a feature of


@MODELS.register_module()
class DeepClusterV2Head(BaseHead):
    """Predict the clusters of an image (`DeepCluster-v2 <https://arxiv.org/abs/2006.09882>`_, App. E of SwAV).

    Before each epoch the features of the last one are clustered H times; centroids become the prototypes ``C_h`` and
    the cluster of image n the label ``y_h,n``. With crops ``z_v``,

    ``loss = 1/H sum_h 1/V sum_v mean_n -log softmax(z_v,n C_h / temperature)[y_h,n]``

    over the images that have a label. Prototypes have no gradient, as in the release, which freezes them throughout.

    The bank holds the features of all images on every rank, and each rank clusters its share: a checkpoint is whole,
    and goes on on any number of ranks. The release keeps on a rank what it has seen, and starts from points of rank 0.

    Args:
        num_instances: Number of images of the training set.
        dim: Feature dimension D.
        num_prototypes: Number of clusters K, of each of the H clusterings.
        num_heads: Number of clusterings H; clustering h is of the features of crop h mod 2.
        temperature: Softmax temperature; a number or a config, as in :class:`InfoNCEHead`.
        kmeans_iterations: Rounds of :func:`spherical_kmeans`.

    Attributes:
        bank: Features (2, num_instances, D) of crops 0 and 1; zero where there is none yet.
        labels: (H, num_instances).
        clustered_epoch: Epoch that the labels are for, () int64; -1 before the first clustering.

    Raises:
        ValueError: If an argument is not positive.
    """

    remembers_queries = True
    num_instances: int
    prototypes: Tensor
    bank: Tensor
    labels: Tensor
    clustered_epoch: Tensor

    def __init__(
        self,
        num_instances: int,
        dim: int = 128,
        num_prototypes: int = 3000,
        num_heads: int = 3,
        temperature: Temperature | dict[str, Any] = 0.1,
        kmeans_iterations: int = 10,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        sizes = dict(num_instances=num_instances, dim=dim, num_prototypes=num_prototypes, num_heads=num_heads)
        check_sizes('head', **sizes, kmeans_iterations=kmeans_iterations)
        self.num_instances = num_instances
        self.temperature = build_temperature(temperature)
        self.kmeans_iterations = kmeans_iterations
        self.register_buffer('prototypes', F.normalize(torch.randn(num_heads, num_prototypes, dim), dim=2))
        self.register_buffer('bank', torch.zeros(2, num_instances, dim))
        self.register_buffer('labels', torch.full((num_heads, num_instances), IGNORED))
        self.register_buffer('clustered_epoch', torch.tensor(-1))

    @property
    def chance_loss(self) -> float:
        """Loss of features that are the same for all images, ln(K)."""
        return math.log(self.prototypes.shape[1])

    def misfits(self, sizes: Sizes) -> list[Misfit]:
        """Return more clusters than there are features, or than are useful; and ``num_instances``."""
        found, prototypes = super().misfits(sizes), self.prototypes.shape[1]
        if prototypes > most_prototypes(sizes.images):
            found.append(Misfit(too_many(prototypes, sizes.images), fatal=prototypes > sizes.seen))
        return found

    def suitable(self, sizes: Sizes) -> dict[str, int] | None:
        """Return clusters of ten images each, and ``num_instances``."""
        options = dict(super().suitable(sizes) or {})
        if self.prototypes.shape[1] > min(most_prototypes(sizes.images), sizes.seen):
            options['model.head.num_prototypes'] = max(min(sizes.images // 10, sizes.seen), 1)
        return options

    @full_precision
    def terms(self, query: Tensor, target: Tensor, shared: None = None) -> Tensor:
        """Return the loss of :meth:`forward`, split over the crops: (V,)."""
        crops = query[:, None] if query.ndim == 2 else query
        labels = self.labels[:, target]
        logits = torch.einsum('nvd,hkd->nkvh', crops, self.prototypes) / read_temperature(self.temperature)
        labels = labels.T[:, None].expand(-1, crops.shape[1], -1)
        losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction='none').sum((0, 2))
        return losses / (labels != IGNORED).sum().clamp(min=1)

    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the loss of crops (N, V, D) or (N, D), unit rows, of the images ``target`` (N,)."""
        return self.terms(query, target).sum()

    @torch.no_grad()
    def update(self, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        """Store the features of crops 0 and 1."""
        (query,), (index,) = queries.values(), targets.values()
        index = check_index(concat_all_gather(index), self.num_instances)
        self.bank.index_copy_(1, index, concat_all_gather(query[:, :2]).transpose(0, 1).to(self.bank.dtype))

    def health(self, features: Tensor) -> dict[str, Tensor]:
        """Return how evenly unit ``features`` (N, D) use the prototypes of the first head."""
        return dict(prototype_entropy=usage_entropy(features @ self.prototypes[0].T))

    @torch.no_grad()
    def cluster(self, epoch: int, rng: Callable[[int], np.random.Generator]) -> None:
        """Cluster the bank for an epoch.

        Args:
            epoch: The epoch that the labels are for.
            rng: The random numbers of clustering h, the same on all ranks.

        Raises:
            ValueError: If the bank has features of fewer images than there are clusters.
        """
        num_prototypes = self.prototypes.shape[1]
        labels, prototypes = torch.full_like(self.labels, IGNORED), torch.empty_like(self.prototypes)
        for h in range(len(self.labels)):
            bank = self.bank[h % 2]
            seen = bank.any(1).nonzero()[:, 0]
            if len(seen) < num_prototypes:
                raise ValueError(
                    f'model.head.num_prototypes is {num_prototypes}, but there are features of {len(seen)} images to '
                    'cluster. Use fewer clusters; a tenth of the number of images is many.'
                )
            prototypes[h], labels[h, seen] = spherical_kmeans(
                bank[seen], num_prototypes, self.kmeans_iterations, rng(h)
            )
        self.labels, self.prototypes = labels, prototypes
        self.clustered_epoch = torch.full_like(self.clustered_epoch, epoch)
