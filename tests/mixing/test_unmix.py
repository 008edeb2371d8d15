"""The equation, against a loop over samples."""

import numpy as np
import pytest
import torch

from unmix.mixing import UnMix


def head(query, target):
    return ((query - target) ** 2).sum(1).mean()


def both_orders(query, target):
    return head(query, target), head(query.flip(0), target)


def test_loss_is_a_label_mixture_over_both_sources():
    """Every mixture n is pulled to its own target by lam and to its partner's, N - 1 - n, by 1 - lam."""
    query, lam = torch.randn(6, 4, dtype=torch.float64), 0.3
    targets = [torch.randn(6, 4, dtype=torch.float64) for _ in range(2)]
    naive = 0.0
    for target in targets:
        for n in range(6):
            own, partner = ((query[n] - target[n]) ** 2).sum(), ((query[n] - target[5 - n]) ** 2).sum()
            naive += (lam * own + (1 - lam) * partner) / 6
    loss = UnMix(loss_weight=0.5)(lam, [both_orders(query, target) for target in targets])
    torch.testing.assert_close(loss, 0.5 * naive, rtol=0, atol=1e-12)


def test_pure_mixture_is_the_clean_loss():
    query, target = torch.randn(5, 3), torch.randn(5, 3)
    assert UnMix()(1.0, [both_orders(query, target)]) == head(query, target)
    assert UnMix()(0.0, [both_orders(query, target)]) == head(query.flip(0), target)


@pytest.mark.parametrize('prob', [0.0, 1.0])
def test_mix_pairs_a_batch_with_its_reversal(prob):
    view = torch.arange(5.0)[:, None, None, None].expand(5, 1, 8, 8)
    mixture, lam = UnMix(mixing=dict(type='RandomMixing', prob=prob)).mix(view, np.random.default_rng(0))
    expected = lam * torch.arange(5.0) + (1 - lam) * torch.arange(5.0).flip(0)
    torch.testing.assert_close(mixture.mean((1, 2, 3)), expected)
    assert torch.equal(mixture[2], view[2])


def test_has_no_state():
    assert not UnMix().state_dict()
    assert not list(UnMix().parameters())
