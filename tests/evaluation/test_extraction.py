"""Collecting features: what it refuses."""

import math

import pytest
import torch

from unmix.evaluation.extraction import collect_features


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    features = torch.ones(6, 3)
    features[[1, 4], 2] = value
    batches = [dict(index=torch.arange(6), label=torch.zeros(6, dtype=torch.long))]
    with pytest.raises(ValueError, match=r'Features of 2 images .*\(encoder: the model\).*load_from'):
        collect_features(batches, {'': lambda batch: features})
    with pytest.raises(ValueError, match='encoder: random_init'):
        collect_features(batches, {'': lambda batch: torch.ones(6, 3), 'random_init': lambda batch: features})
