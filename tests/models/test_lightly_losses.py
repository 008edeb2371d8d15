"""Losses against those of lightly (``pip install lightly``), where it has them, in float64."""

import pytest
import torch
from torch import Tensor

from unmix.models import BarlowTwinsHead, DINOHead, SimSiamHead, VICRegHead

lightly = pytest.importorskip('lightly.loss', reason='compares with lightly, which is not installed')


def features(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_simsiam() -> None:
    """Its loss is one direction; the head takes the mean of both."""
    head, (a, b) = SimSiamHead(5, 3).double(), features(2, 6, 5)
    theirs, p = lightly.NegativeCosineSimilarity(), head.predictor
    expected = (theirs(p(a), b.detach()) + theirs(p(b), a.detach())) / 2
    torch.testing.assert_close(head(a, b), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('scale', [0.3, 2.0])
def test_vicreg(scale: float) -> None:
    """Its loss has no part that a mixture could be kept out of; the head splits it."""
    (a, b), head = scale * features(2, 7, 5), VICRegHead(20.0, 15.0, 2.0)
    loss = head(a, b) + head.regulariser({0: a, 1: b})
    torch.testing.assert_close(loss, lightly.VICRegLoss(20.0, 15.0, 2.0)(a, b), rtol=0, atol=1e-10)


def test_barlow_twins() -> None:
    a, b = 3 * features(2, 7, 5) + 1
    expected = lightly.BarlowTwinsLoss(lambda_param=0.2)(a, b)
    torch.testing.assert_close(BarlowTwinsHead(0.2)(a, b), expected, rtol=0, atol=1e-10)


def test_dino() -> None:
    """Teachers of 2 views, students of 4; the centre moves after each step. Their temperature is a float32."""
    head = DINOHead(5, temperature=0.1, teacher_temperature=0.0625).double()
    theirs = lightly.DINOLoss(output_dim=5, teacher_temp=0.0625, warmup_teacher_temp_epochs=0).double()
    for outputs in features(3, 6, 6, 5):
        students, teachers = outputs[:4], outputs[4:]
        terms = [head(students[i], teachers[j]) for j in range(2) for i in range(4) if i != j]
        expected = theirs(list(teachers), list(students))
        torch.testing.assert_close(torch.stack(terms).mean(), expected, rtol=0, atol=1e-10)
        head.update({}, dict(enumerate(teachers)))
        torch.testing.assert_close(head.center, theirs.center[0, 0], rtol=0, atol=1e-12)
