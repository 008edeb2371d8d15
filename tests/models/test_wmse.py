"""Whitening against the naive formula, random sub-batches, singular covariances, bad input."""

import math

import numpy as np
import pytest
import torch
from algorithms_under_test import ALGORITHMS

from unmix.models import Whitening, WMSEHead
from unmix.registry import MODELS


def build(name, **changes):
    torch.manual_seed(0)
    return MODELS.build(dict(ALGORITHMS[name], **changes)).double()


def views(seed=0, size=6, num_views=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, 8, 8, dtype=torch.float64, generator=generator) for _ in range(num_views)]


def test_whitened_features_have_the_identity_as_covariance():
    x = torch.randn(50, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + 3
    y = Whitening(6, track_running_stats=False)(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(y.T.cov(), torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-10)


def test_wmse_whitens_each_sub_batch_on_its_own():
    head = WMSEHead(sub_batch=6, draws=2)
    query, target = torch.randn(2, 12, 4, dtype=torch.float64)
    naive = 0.0
    for permutation in head.permutations(12):
        for group in permutation.reshape(2, 6):
            white = []
            for x in (query[group], target[group]):
                factor = torch.linalg.cholesky(x.T.cov())
                white.append((x - x.mean(0)) @ torch.linalg.inv(factor).T)
            naive += (2 - 2 * torch.nn.functional.cosine_similarity(*white)).sum() / 24
    torch.testing.assert_close(head(query, target), naive, rtol=0, atol=1e-10)


def test_wmse_does_not_commute_with_the_reversal():
    """Reversing one side is whitening it in the reversed sub-batches: only that equals the literal call."""
    head = WMSEHead(sub_batch=6)
    query, target = torch.randn(2, 12, 4, dtype=torch.float64)
    assert not torch.isclose(head(query.flip(0), target), head(query, target.flip(0)), rtol=1e-3)
    groups = torch.from_numpy(head.permutations(12))
    reversed_groups = 11 - groups
    literal = head.whiten(query.flip(0), groups)
    torch.testing.assert_close(literal, head.whiten(query, reversed_groups), rtol=0, atol=1e-12)


def test_wmse_draws_once_a_step():
    model = build('wmse')
    x = views()
    drawn = []
    permutations = model.head.permutations
    model.head.permutations = lambda size: drawn.append(permutations(size)) or drawn[-1]
    model.loss(x)
    model.head(*torch.randn(2, 6, 2, dtype=torch.float64))
    model.after_step()
    model.loss(x)
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[1] != drawn[2]).any()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_a_nearly_singular_covariance_is_whitened_all_the_same(dtype):
    x = torch.randn(32, 4, dtype=dtype)
    x[:, 3] = x[:, 0] - x[:, 1]
    x.requires_grad_()
    with pytest.raises(torch.linalg.LinAlgError):
        torch.linalg.cholesky(x.detach().T.cov() - 1e-7 * torch.eye(4, dtype=dtype))
    loss = WMSEHead(sub_batch=32)(x, x.detach() + 0.1 * torch.randn(32, 4, dtype=dtype))
    loss.backward()
    assert 0 <= loss < 2
    assert x.grad.isfinite().all()


@pytest.mark.parametrize('value', [1.0, math.nan])
def test_a_covariance_that_stays_singular_is_an_error(value):
    x = torch.full((32, 4), value)
    with pytest.raises(ValueError, match=r'features are NaN.*Lower optim_wrapper\.optimizer\.lr.*model\.head\.eps'):
        WMSEHead(sub_batch=16)(x, torch.randn(32, 4))


def test_shrinkage_whitens_a_collapsed_batch():
    assert WMSEHead(sub_batch=16, eps=0.01)(torch.ones(32, 4), torch.randn(32, 4)) == 2


@pytest.mark.parametrize(('arguments', 'size', 'message'), [
    (dict(sub_batch=4), 8, r'head\.sub_batch is 4, features have 4 dimensions.*Set head\.sub_batch to 8'),
    (dict(sub_batch=6), 8, r'batch of 8 \(all ranks\) cannot be cut into sub-batches of head\.sub_batch=6'),
])  # fmt: skip
def test_wmse_refuses_sub_batches(arguments, size, message):
    with pytest.raises(ValueError, match=message):
        WMSEHead(**arguments)(*torch.randn(2, size, 4))


def test_permutations_are_partitions():
    drawn = WMSEHead(sub_batch=4, draws=3).permutations(12)
    assert (np.sort(drawn, axis=1) == np.arange(12)).all()
    assert (drawn[0] != drawn[1]).any()


def test_more_views_are_a_mean_over_pairs():
    model = build('wmse-4')
    x = views(num_views=4)
    loss = model.loss(x)['loss_base']
    features = torch.cat([model.backbone(view) for view in x])
    h = model.neck(features).chunk(4)
    terms = [model.head(h[i], h[j]) for i in range(4) for j in range(i)]
    torch.testing.assert_close(loss, sum(terms) / 6, rtol=0, atol=1e-12)
