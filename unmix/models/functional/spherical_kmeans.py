"""Clustering of unit vectors. Shapes: N points, K clusters, D dimensions."""

import numpy as np
import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from torch import Tensor
from torch.nn import functional as F

CHUNK = 16384  # points compared with all centroids at once


@torch.no_grad()
def spherical_kmeans(
    points: Tensor, num_clusters: int, iterations: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return centroids (K, D) and the nearest one of each point (N,), by k-means on the sphere.

    Starts from K random points. A round assigns each point to the centroid of largest product and replaces centroids by
    the normalised mean of their points; one without points stays. A last assignment follows.

    Args:
        points: Unit rows (N, D), the same on all ranks, which share the work.
        num_clusters: K, at most N.
        iterations: Number of rounds.
        rng: The same on all ranks.
    """
    start = torch.from_numpy(rng.permutation(len(points))[:num_clusters]).to(points.device)
    centroids = points[start]
    bounds = [len(points) * rank // get_world_size() for rank in (get_rank(), get_rank() + 1)]
    own = points[slice(*bounds)]
    for _ in range(iterations):
        nearest = _nearest(own, centroids)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, own)
        counts = sums.new_zeros(num_clusters).index_add_(0, nearest, torch.ones_like(own[:, 0]))
        all_reduce(sums)
        all_reduce(counts)
        centroids = torch.where(counts[:, None] > 0, F.normalize(sums, dim=1), centroids)
    labels = torch.zeros(len(points), dtype=torch.long, device=points.device)
    labels[slice(*bounds)] = _nearest(own, centroids)
    all_reduce(labels)
    return centroids, labels


def _nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """Return the centroid of largest product for each point."""
    return torch.cat([(chunk @ centroids.T).argmax(1) for chunk in points.split(CHUNK)])
