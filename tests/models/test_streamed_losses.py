"""Heads that stream against the literal forms of the released codes, with Un-Mix; what is shared is computed once."""

import pytest
import torch
from torch.nn import functional as F

from unmix.mixing import UnMix
from unmix.models import AlignUniformHead, InfoNCEHead, NTXentHead
from unmix.models.heads import align_uniform, info_nce
from unmix.registry import MODELS

EXACT = dict(rtol=1e-12, atol=1e-12)


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(shape, dtype=torch.float64, generator=generator), dim=-1)


def literal_moco(head, query, key):
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ head.queue.features.clone().T], 1)
    return F.cross_entropy(logits / head.temperature, torch.zeros(len(query), dtype=torch.long))


@pytest.mark.parametrize('temperature', [0.01, 0.07, 1.0])
@pytest.mark.parametrize('queue_size', [8, 700, 65536])
def test_unmix_moco_is_the_released_form(temperature, queue_size):
    """Symmetric: losses of both directions, their mixture terms, and the gradients of three encodings."""
    head = InfoNCEHead(dim=6, queue_size=queue_size, temperature=temperature).double()
    keys, mixture = (unit(4, 6, seed=1), unit(4, 6, seed=2)), unit(4, 6, seed=3).requires_grad_()
    head.queue.features[3] = keys[0][0]  # a negative that is the key
    head.queue.features[5] = head.queue.features[4]
    queries = [unit(4, 6, seed=4).requires_grad_(), unit(4, 6, seed=5).requires_grad_()]
    theirs = sum(
        literal_moco(head, query, key)
        + 0.3 * literal_moco(head, mixture, key)
        + 0.7 * literal_moco(head, mixture.flip(0), key)
        for query, key in zip(queries, keys, strict=True)
    )
    expected = torch.autograd.grad(theirs, [*queries, mixture])
    base = sum(head(query, key, head.shared(query)) for query, key in zip(queries, keys, strict=True))
    shared, reverse = head.shared(mixture), mixture.flip(0)
    ours = base + UnMix()(0.3, [(head(mixture, key, shared), head(reverse, key, shared.flip(0))) for key in keys])
    head.update({}, dict(enumerate(keys)))  # in place, before the backward pass
    torch.testing.assert_close(ours, theirs, **EXACT)
    for one, other in zip(torch.autograd.grad(ours, [*queries, mixture]), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12 / temperature)


@pytest.mark.parametrize(('symmetric', 'passes'), [(False, 2), (True, 3)])
@pytest.mark.parametrize(('kind', 'each'), [('InfoNCEHead', 1), ('AlignUniformHead', 2)])
def test_a_step_reads_the_queue_once_for_each_encoding(monkeypatch, symmetric, passes, kind, each):
    calls = []
    for module in (info_nce, align_uniform):
        monkeypatch.setattr(
            module, 'bank_lse', lambda *args, plain=module.bank_lse, **kwargs: calls.append(1) or plain(*args, **kwargs)
        )
    model = MODELS.build(dict(
        type='MoCo',
        backbone=dict(type='ResNet', depth=8, width=4, stem='cifar'),
        neck=dict(type='LinearNeck', in_dim=16, out_dim=8),
        head=dict(type=kind, dim=8, queue_size=16, **(dict(contrast_weight=1.0) if each == 2 else {})),
        symmetric=symmetric,
        unmix=dict(type='UnMix'),
    ))  # fmt: skip
    sum(model.loss([torch.randn(4, 3, 8, 8) for _ in range(2)]).values()).backward()
    assert len(calls) == passes * each


@pytest.mark.parametrize('temperature', [0.01, 1.0])
def test_uniformity_and_nt_xent_are_the_literal_forms(temperature):
    query, key = unit(5, 6).requires_grad_(), unit(5, 6, seed=1).requires_grad_()
    spread = AlignUniformHead(6, 900, align_weight=0.0, intra_batch=False, t=1 / temperature).double()
    spread.queue.features.copy_(unit(900, 6, seed=2))
    squared = 2 - 2 * query @ spread.queue.features.T
    both = torch.cat([query, key])
    logits = (both @ both.T / temperature).masked_fill(torch.eye(10, dtype=torch.bool), -torch.inf)
    pairs = (
        (spread(query, key), (-squared / temperature).flatten().logsumexp(0) - torch.tensor(4500.0).double().log()),
        (NTXentHead(temperature)(query, key), F.cross_entropy(logits, torch.arange(10).roll(5))),
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12 / temperature)
        gradients = [torch.autograd.grad(loss, (query, key), allow_unused=True)[:1] for loss in (ours, theirs)]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-11 / temperature)
