"""Pure functions behind the metrics."""

from unmix.evaluation.functional.knn import knn_neighbours, knn_predict, knn_scores, knn_vote
from unmix.evaluation.functional.logistic_regression import (
    LogisticRegression,
    feature_statistics,
    fit_logistic_regression,
)

__all__ = [
    'LogisticRegression',
    'feature_statistics',
    'fit_logistic_regression',
    'knn_neighbours',
    'knn_predict',
    'knn_scores',
    'knn_vote',
]
