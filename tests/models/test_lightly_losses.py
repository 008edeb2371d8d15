"""Losses against those of lightly (``pip install lightly``), where it has them, in float64."""

import pytest
import torch
from torch import Tensor

from unmix.models import SimSiamHead

lightly = pytest.importorskip('lightly.loss', reason='compares with lightly, which is not installed')


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_simsiam() -> None:
    """Its loss is one direction; the head takes the mean of both."""
    head, (a, b) = SimSiamHead(5, 3).double(), features(2, 6, 5)
    theirs, p = lightly.NegativeCosineSimilarity(), head.predictor
    expected = (theirs(p(a), b.detach()) + theirs(p(b), a.detach())) / 2
    torch.testing.assert_close(head(a, b), expected, rtol=0, atol=1e-12)
