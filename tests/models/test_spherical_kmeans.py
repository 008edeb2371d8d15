"""k-means on the sphere, against a version that goes point by point."""

import numpy as np
import torch
from torch.nn import functional as F

from unmix.models.heads import spherical_kmeans
from unmix.utils.rng import generator


def naive_kmeans(points, centroids, iterations):
    """Point by point."""
    for _ in range(iterations):
        nearest = [int(np.argmax(centroids @ point)) for point in points]
        for k in range(len(centroids)):
            own = [point for point, label in zip(points, nearest, strict=True) if label == k]
            if own:
                centroids[k] = np.sum(own, 0) / np.linalg.norm(np.sum(own, 0))
    return centroids, [int(np.argmax(centroids @ point)) for point in points]


def test_kmeans_is_the_naive_one():
    points = F.normalize(torch.randn(60, 4, dtype=torch.float64), dim=1)
    start = points.numpy()[generator('start').permutation(60)[:7]].copy()
    centroids, labels = spherical_kmeans(points, 7, 5, generator('start'))
    expected, expected_labels = naive_kmeans(points.numpy(), start, 5)
    torch.testing.assert_close(centroids, torch.from_numpy(expected), rtol=0, atol=1e-12)
    assert labels.tolist() == expected_labels


def test_empty_clusters_keep_their_centroid():
    """Of two equal centroids the second one gets no point."""
    points = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    rng = type('Fixed', (), dict(permutation=lambda self, size: np.array([0, 1, 2])))()
    centroids, labels = spherical_kmeans(points, 2, 1, rng)
    torch.testing.assert_close(centroids[0], F.normalize(points.sum(0), dim=0), rtol=0, atol=1e-12)
    assert torch.equal(centroids[1], points[1])
    assert labels.tolist() == [1, 1, 0]


def test_clusters_are_found():
    truth = torch.arange(90) % 3
    points = F.normalize(3 * torch.eye(3).double()[truth] + 0.3 * torch.randn(90, 3, dtype=torch.float64), dim=1)
    _, labels = spherical_kmeans(points, 3, 10, generator(5))
    assert len({(int(a), int(b)) for a, b in zip(truth, labels, strict=True)}) == 3
