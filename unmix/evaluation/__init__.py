"""How good features are."""

from unmix.evaluation.functional import (
    LogisticRegression,
    feature_statistics,
    fit_logistic_regression,
    knn_predict,
    knn_scores,
    knn_vote,
)
from unmix.evaluation.metrics import KNN, Accuracy, EuclideanKNN, Features, LinearProbe, LinearTraining

__all__ = [
    'KNN',
    'Accuracy',
    'EuclideanKNN',
    'Features',
    'LinearProbe',
    'LinearTraining',
    'LogisticRegression',
    'feature_statistics',
    'fit_logistic_regression',
    'knn_predict',
    'knn_scores',
    'knn_vote',
]
