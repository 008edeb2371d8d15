"""Evaluation of features."""

from unmix.evaluation.accuracy import Accuracy
from unmix.evaluation.knn import KNN, EuclideanKNN, knn_predict, knn_scores, knn_vote
from unmix.evaluation.linear_probe import (
    LinearProbe,
    LogisticRegression,
    feature_statistics,
    fit_logistic_regression,
)
from unmix.evaluation.linear_training import LinearTraining
from unmix.evaluation.shard import Features, Shard

__all__ = [
    'KNN',
    'Accuracy',
    'EuclideanKNN',
    'Features',
    'LinearProbe',
    'LinearTraining',
    'LogisticRegression',
    'Shard',
    'feature_statistics',
    'fit_logistic_regression',
    'knn_predict',
    'knn_scores',
    'knn_vote',
]
