"""How flat predictions are."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unmix.visualization import predictions as module
from unmix.visualization.predictions import draw_predictions, predictions


def test_predictions_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(module, '_BLOCK', 4)
    found = predictions(features, 0.3)
    rows, entropies = [], []
    for n in range(9):
        similar = [float(torch.cosine_similarity(features[n], features[m], dim=0)) for m in range(9) if m != n]
        weights = [math.exp(one / 0.3) for one in similar]
        shares = sorted((weight / sum(weights) for weight in weights), reverse=True)
        rows.append(shares)
        entropies.append(-sum(share * math.log(share) for share in shares))
    assert found.sorted.numpy() == pytest.approx(np.mean(rows, axis=0), rel=1e-5)
    assert found.entropy == pytest.approx(np.mean(entropies), rel=1e-5)


def test_equal_images_are_predicted_flat(tmp_path: Path) -> None:
    flat, sharp = predictions(torch.ones(5, 3)), predictions(torch.eye(6)[[0, 0, 1, 1, 2]], 0.01)
    assert flat.entropy == pytest.approx(math.log(4))
    assert flat.share == pytest.approx(1)
    assert sharp.share < flat.share
    draw_predictions(dict(a=flat, b=sharp), 0.2, tmp_path / 'p.png')
    assert Image.open(tmp_path / 'p.png').size[0] > 500


def test_what_has_no_predictions_is_refused() -> None:
    with pytest.raises(ValueError, match='among 2 images; expected 3'):
        predictions(torch.ones(2, 3))
    with pytest.raises(ValueError, match='expected a positive number'):
        predictions(torch.ones(4, 3), 0.0)
