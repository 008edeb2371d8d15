"""Losses, gradients and queues of the released MoCo and Un-Mix MoCo on given features.

The "images" are the features: the backbone is the identity, and a linear neck takes the first half of a row in the
query encoder and the second half in the momentum encoder, so that query and key features can be given separately.
"""

import networks  # noqa: F401  registers GoldenFeatures, GoldenMixture
import pytest
import torch
from fixtures import Golden
from logits import moco_logits
from torch import Tensor

from unmix.models import MoCo
from unmix.registry import MODELS


def build(golden: Golden, symmetric: bool, unmix: bool) -> MoCo:
    dim, queue_size = golden['in_queue0'].shape
    model = MODELS.build(
        dict(
            type='MoCo',
            backbone=dict(type='GoldenFeatures'),
            neck=dict(type='LinearNeck', in_dim=2 * dim, out_dim=dim, bias=False),
            head=dict(type='InfoNCEHead', dim=dim, queue_size=queue_size, temperature=golden.hp['T']),
            momentum=1.0,
            symmetric=symmetric,
            unmix=dict(type='UnMix', mixing=dict(type='GoldenMixture')) if unmix else None,
        )
    ).to(**golden.factory)
    identity, zero = torch.eye(dim, **golden.factory), torch.zeros(dim, dim, **golden.factory)
    model.neck.fc.weight.data = torch.cat([identity, zero], 1)
    model.momentum_encoder.neck.fc.weight.data = torch.cat([zero, identity], 1)
    model.head.queue.features = golden.tensor('in_queue0').T.contiguous()
    model.head.queue.pointer.fill_(golden.hp['ptr_init'])
    return model


@pytest.mark.golden('c03_moco_vanilla*', 'c03_unmix_moco_*')
def test_steps_on_features(golden: Golden) -> None:
    """Three steps: terms, total, logits, gradients, queue and pointer."""
    symmetric, unmix = 'in_q2' in golden, 'in_qm' in golden
    names = dict(query0='in_q1', key1='in_k2', query1='in_q2', key0='in_k1')
    if 'in_q' in golden:
        names.update(query0='in_q', key1='in_k')
    model = build(golden, symmetric, unmix)
    for step in range(len(golden[names['query0']])):
        # A part of a view that this variant does not use is filled with ones.
        rows = {
            role: golden.tensor(name)[step] if name in golden else torch.ones_like(golden.tensor(names['query0'])[step])
            for role, name in names.items()
        }
        views = [
            torch.cat([rows[f'query{i}'], rows[f'key{i}']], 1)[:, :, None, None].requires_grad_() for i in range(2)
        ]
        dim = rows['query0'].shape[1]
        if unmix:
            mixture = golden.tensor('in_qm')[step]
            mixture = torch.cat([mixture, torch.ones_like(mixture)], 1)[:, :, None, None].requires_grad_()
            model.unmix.mixing.mixture, model.unmix.mixing.lam = mixture, float(golden['lam'][step])
        check_terms(golden, model, step, views, mixture if unmix else None, symmetric)
        losses = model.loss(views)
        total = sum(losses.values())
        total.backward()
        model.after_step()
        golden.check(total, 'total', step)
        golden.check(views[0].grad[:, :dim, 0, 0], 'grad_q' if 'in_q' in golden else 'grad_q1', step)
        if symmetric:
            golden.check(views[1].grad[:, :dim, 0, 0], 'grad_q2', step)
        if unmix:
            golden.check(mixture.grad[:, :dim, 0, 0], 'grad_qm', step)
        golden.check(model.head.queue.features.T, 'queue', step)
        assert int(model.head.queue.pointer) == golden['ptr'][step]


@torch.no_grad()
def check_terms(
    golden: Golden, model: MoCo, step: int, views: list[Tensor], mixture: Tensor | None, symmetric: bool
) -> None:
    """Each cross-entropy term and its logits: (plain, mixed, reversed) for every pair of query and key."""
    mixed = [] if mixture is None else [model.encode(mixture), model.encode(mixture).flip(0)]
    pairs = [(query, j) for i, j in model.pairs for query in [model.encode(views[i]), *mixed]]
    blocks = ('logits', 'logits_m', 'logits_m_flip')
    for term, (query, j) in enumerate(pairs):
        key = model.momentum_encoder(views[j])
        golden.check(model.head(query, key), 'terms', (step, term))
        if 'o64_logits_m' in golden or golden.arrays['o64_logits'].ndim == 3:
            golden.check(moco_logits(model.head, query, key), blocks[term], step)
        else:
            golden.check(moco_logits(model.head, query, key), 'logits', (step, term))
