"""Feature statistics against numpy in float64, and at their ends: one point, one line, the whole sphere."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from unmix.models import AlignUniformHead, InfoNCEHead, NCEHead, SwAVHead
from unmix.utils.feature_statistics import effective_rank, memory_statistics, similarities, spread, usage_entropy

EXACT = dict(rel=1e-9, abs=1e-9)


def unit(rows, dim, seed=0):
    return F.normalize(torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize(('rows', 'dim'), [(2, 3), (17, 5), (5, 17), (64, 32)])
def test_statistics_equal_numpy(rows, dim):
    x, y = unit(rows, dim), unit(rows, dim, 1)
    a, b = x.numpy(), y.numpy()
    assert spread(x).item() == pytest.approx(np.sqrt(dim) * a.std(axis=0).mean(), **EXACT)
    s = np.linalg.svd(a, compute_uv=False)
    p = s / s.sum() + 1e-7
    assert effective_rank(x).item() == pytest.approx(np.exp(-(p * np.log(p)).sum()), **EXACT)
    products = a @ b.T
    positive, negative = similarities(x, y)
    assert positive.item() == pytest.approx(np.diag(products).mean(), **EXACT)
    assert negative.item() == pytest.approx(products[~np.eye(rows, dtype=bool)].mean(), **EXACT)


def test_memory_statistics_equal_numpy():
    features, memory = unit(9, 4), 3 * torch.randn(13, 4, dtype=torch.float64)
    memory[2] = 0
    a, m = features.numpy(), memory.numpy()
    norms = np.linalg.norm(m, axis=1)
    cosine = (a @ m.T) / np.where(norms > 0, norms, 1)
    values = memory_statistics(features, memory, 'queue')
    assert values.keys() == {'queue_norm', 'queue_similarity'}
    assert values['queue_norm'].item() == pytest.approx(norms.mean(), **EXACT)
    assert values['queue_similarity'].item() == pytest.approx(cosine.mean(), **EXACT)


@pytest.mark.parametrize(('rows', 'columns'), [(50, 7), (5, 40)])
def test_usage_entropy_equals_numpy(rows, columns):
    scores = torch.randn(rows, columns, dtype=torch.float64)
    _, count = np.unique(scores.numpy().argmax(1), return_counts=True)
    p = count / rows
    expected = -(p * np.log(p)).sum() / math.log(min(rows, columns))
    assert usage_entropy(scores).item() == pytest.approx(expected, **EXACT)


def test_ends_of_the_scales():
    point = F.normalize(torch.ones(8, 16, dtype=torch.float64))
    line = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4)[:, None] * point
    axes = torch.eye(16, dtype=torch.float64)
    assert spread(point).item() == pytest.approx(0, abs=1e-12)
    assert effective_rank(point).item() == pytest.approx(1, abs=1e-4)
    assert spread(line).item() == pytest.approx(1)
    assert effective_rank(line).item() == pytest.approx(1, abs=1e-4)
    assert effective_rank(axes).item() == pytest.approx(16, rel=1e-4)
    assert spread(unit(4096, 16)).item() == pytest.approx(1, abs=0.02)
    assert effective_rank(torch.zeros(3, 4)).isfinite()
    assert usage_entropy(axes).item() == pytest.approx(1)
    assert usage_entropy(axes[:1].repeat(5, 1)).item() == 0
    assert usage_entropy(torch.zeros(1, 1)).item() == 0


def test_heads_tell_of_their_state():
    features = unit(6, 4).float()
    bank = NCEHead(num_instances=9, dim=4, num_negatives=3).health(features)
    assert bank['bank_norm'].item() == pytest.approx(1)
    for head in (InfoNCEHead(dim=4, queue_size=12), AlignUniformHead(dim=4, queue_size=12)):
        expected = (features @ head.queue.features.T).mean().item()
        assert head.health(features)['queue_similarity'].item() == pytest.approx(expected, abs=1e-6)
    swav = SwAVHead(dim=4, num_prototypes=5, queue_size=12)
    assert swav.health(features).keys() == {'prototype_entropy', 'queue_norm', 'queue_similarity'}
    scores = features @ swav.prototypes.weight.detach().T
    assert swav.health(features)['prototype_entropy'].item() == pytest.approx(usage_entropy(scores).item())
