"""Metrics: kNN and linear probe on frozen features, accuracy of a classifier."""

from unmix.evaluation.metrics.accuracy import Accuracy
from unmix.evaluation.metrics.euclidean_knn import EuclideanKNN
from unmix.evaluation.metrics.features import Features
from unmix.evaluation.metrics.knn import KNN
from unmix.evaluation.metrics.linear_probe import LinearProbe

__all__ = ['KNN', 'Accuracy', 'EuclideanKNN', 'Features', 'LinearProbe']
