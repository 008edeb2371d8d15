"""Losses against those of lightly (``pip install 'unmix[peers]'``), where it has them, in float64."""

import pytest
import torch
from torch import Tensor

from unmix.models import BarlowTwinsHead, DINOHead, LeJEPAHead, SimSiamHead, VICRegHead

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


def test_lejepa() -> None:
    """Two large and three small views; lightly draws its directions from the global generator, in place of our own."""
    views, head = 2 * features(5, 6, 4), LeJEPAHead(weight=0.1, directions=7)
    theirs = lightly.LeJEPALoss(lambda_param=0.1, sigreg_num_vectors=7)
    theirs.sigreg._generate_unit_vectors = lambda *_, **__: head.draw(views[0])
    theirs.sigreg.t = theirs.sigreg.t.double()  # exact: sixteenths
    theirs.sigreg.phi = (-theirs.sigreg.t.square() / 2).exp()
    theirs.sigreg.weights = theirs.sigreg.phi * torch.tensor([1, *[2] * 15, 1], dtype=torch.float64) * 3 / 16
    centre = views[:2].mean(0)
    loss = torch.stack([head(view, centre) for view in views]).mean() + head.regulariser(dict(enumerate(views)))
    torch.testing.assert_close(loss, theirs(local_proj=views[2:], global_proj=views[:2]), rtol=0, atol=1e-10)
