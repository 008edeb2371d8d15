"""Metrics: kNN and linear classifiers on frozen features, accuracy of a classifier."""

from unmix.evaluation.metrics.accuracy import Accuracy
from unmix.evaluation.metrics.features import Features
from unmix.evaluation.metrics.knn import KNN, EuclideanKNN
from unmix.evaluation.metrics.linear_probe import LinearProbe
from unmix.evaluation.metrics.linear_training import LinearTraining

__all__ = ['KNN', 'Accuracy', 'EuclideanKNN', 'Features', 'LinearProbe', 'LinearTraining']
