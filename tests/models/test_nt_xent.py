"""NT-Xent against the naive formula; heads without state in full precision; bad input."""

import math

import pytest
import torch

from unmix.models import CosineHead, NTXentHead, WMSEHead
from unmix.registry import MODELS


def unit(*shape):
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def test_nt_xent_is_the_formula():
    head = NTXentHead(temperature=0.3)
    x = unit(2, 5, 4)
    rows = [(view, n) for view in range(2) for n in range(5)]
    naive = 0.0
    for view, n in rows:
        scores = {row: math.exp(x[view, n] @ x[row] / 0.3) for row in rows if row != (view, n)}
        naive -= math.log(scores[1 - view, n] / sum(scores.values())) / 10
    assert head(x[0], x[1]).item() == pytest.approx(naive, abs=1e-12)
    assert head(x[1], x[0]).item() == pytest.approx(naive, abs=1e-12)


def test_candidates_without_gradient_leave_the_loss_alone():
    x = unit(2, 5, 4).requires_grad_()
    full, query_only = (NTXentHead(0.2, gradient)(x[0], x[1]) for gradient in ('full', 'query_only'))
    assert full == query_only
    gradients = [torch.autograd.grad(loss, x)[0] for loss in (full, query_only)]
    assert 0.3 < gradients[1].norm() / gradients[0].norm() < 0.8
    assert torch.nn.functional.cosine_similarity(gradients[0].flatten(), gradients[1].flatten(), dim=0) > 0.9


def test_mixtures_share_the_log_sum_exp():
    """lam F + (1 - lam) F_reversed has one set of log-sum-exps for both orders."""
    head, lam = NTXentHead(0.5), 0.3
    m, x = unit(2, 6, 4)
    literal = lam * head(m, x) + (1 - lam) * head(m.flip(0), x)
    rows = torch.cat([m, x])
    lse = (rows @ rows.T / 0.5).masked_fill(torch.eye(12, dtype=torch.bool), -torch.inf).logsumexp(1).mean()
    positive = lam * (m * x).sum(1) + (1 - lam) * (m.flip(0) * x).sum(1)
    torch.testing.assert_close(literal, lse - positive.mean() / 0.5, rtol=0, atol=1e-12)


def test_nt_xent_of_a_collapsed_encoder_is_at_chance():
    head = NTXentHead(0.1)
    assert head.chance_loss is None
    same = torch.ones(5, 4, dtype=torch.float64) / 2
    head.update({0: same}, {1: same})
    assert head(same, same).item() == pytest.approx(head.chance_loss, rel=1e-12)
    assert head.chance_loss == math.log(9)


@pytest.mark.parametrize('head', [NTXentHead(0.1), CosineHead(), WMSEHead(sub_batch=8)])
def test_heads_keep_full_precision_under_autocast(head):
    query, target = (torch.randn(16, 4).bfloat16() for _ in range(2))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = head(query, target)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, head(query.float(), target.float()))


@pytest.mark.parametrize(('head', 'message'), [
    (dict(type='NTXentHead', temperature=0.0), r'head\.temperature is 0'),
    (dict(type='NTXentHead', gradient='none'), r"head\.gradient is 'none'"),
    (dict(type='WMSEHead', sub_batch=4, draws=0), r'head\.draws is 0'),
    (dict(type='WMSEHead', sub_batch=4, eps=1.0), r'head\.eps 1\.0'),
])  # fmt: skip
def test_heads_refuse_bad_arguments(head, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(head)
