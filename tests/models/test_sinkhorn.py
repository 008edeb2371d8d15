"""Sinkhorn: the direct iteration, its marginals, ranks, overflow."""

import pytest
import torch

from unmix.models.heads import sinkhorn


def direct(scores, epsilon, iterations):
    """The iteration on Q itself, with the constants of the paper."""
    q = (scores / epsilon).exp().T
    q = q / q.sum()
    num_prototypes, num_samples = q.shape
    for _ in range(iterations):
        q = q / q.sum(1, keepdim=True) / num_prototypes
        q = q / q.sum(0, keepdim=True) / num_samples
    return (q * num_samples).T


@pytest.mark.parametrize('iterations', [1, 3, 10])
def test_is_the_direct_iteration(iterations):
    scores = torch.randn(12, 5, dtype=torch.float64).clamp(-1, 1)
    codes = sinkhorn(scores, 0.05, iterations)
    torch.testing.assert_close(codes, direct(scores, 0.05, iterations), rtol=0, atol=1e-12)
    torch.testing.assert_close(codes.sum(1), torch.ones(12, dtype=torch.float64), rtol=0, atol=1e-12)


def test_prototypes_are_used_equally():
    codes = sinkhorn(torch.randn(40, 5, dtype=torch.float64), 0.5, 200)
    torch.testing.assert_close(codes.sum(0), torch.full((5,), 8.0, dtype=torch.float64), rtol=0, atol=1e-6)


def test_commutes_with_the_reversal():
    scores = torch.randn(8, 5, dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(scores.flip(0)), sinkhorn(scores).flip(0), rtol=0, atol=1e-12)


def test_masked_samples_have_no_part():
    scores, others = torch.randn(8, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    mask = torch.tensor([-torch.inf] * 3 + [0.0] * 8, dtype=torch.float64)
    codes = sinkhorn(torch.cat([others, scores]), mask=mask)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes[3:], sinkhorn(scores), rtol=0, atol=1e-12)


def test_large_scores_do_not_overflow():
    scores = torch.randn(8, 5)
    codes = sinkhorn(1e4 * scores, 0.05)
    assert codes.isfinite().all()
    torch.testing.assert_close(codes.sum(1), torch.ones(8), rtol=0, atol=1e-5)


def test_full_precision_under_autocast():
    scores = torch.randn(8, 5)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(sinkhorn(scores.bfloat16()), sinkhorn(scores.bfloat16().float()))
