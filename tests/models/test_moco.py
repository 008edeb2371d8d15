"""MoCo's own state: momentum encoder, queue; and ranks."""

import copy
import math

import pytest
import torch
from algorithms_under_test import ALGORITHMS

from unmix.models import InfoNCEHead
from unmix.models.algorithms.momentum import MomentumEncoder
from unmix.models.memory.queue import FeatureQueue
from unmix.registry import MODELS


def build(name='moco-v2', **changes):
    torch.manual_seed(0)
    return MODELS.build(dict(ALGORITHMS[name], **changes)).double()


def views(seed, size=4):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, 8, 8, dtype=torch.float64, generator=generator) for _ in range(2)]


def test_momentum_encoder_moves_once_an_optimiser_step():
    model = build(momentum=0.9)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    expected = copy.deepcopy(model.neck.state_dict())
    for step in range(3):
        for micro in range(2):
            sum(model.loss(views(10 * step + micro)).values()).backward()
            for key, value in model.momentum_encoder.neck.state_dict().items():
                torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-12)
            if micro == 0:
                model.after_step(stepped=False)
        optimizer.step()
        model.after_step()
        optimizer.zero_grad()
        online = model.neck.state_dict()
        expected = {key: 0.9 * value + 0.1 * online[key] for key, value in expected.items()}


def test_momentum_encoder_takes_over_initial_weights():
    model = build(backbone=dict(ALGORITHMS['moco-v2']['backbone']))
    torch.nn.init.zeros_(model.backbone.conv1.weight)
    model.init_weights()
    assert torch.equal(model.momentum_encoder.backbone.conv1.weight, model.backbone.conv1.weight)
    assert not any(parameter.requires_grad for parameter in model.momentum_encoder.parameters())


@pytest.mark.parametrize('momentum', [0.001, 1.1, -0.5])
def test_momentum_of_the_other_convention_is_refused(momentum):
    with pytest.raises(ValueError, match=r'model\.momentum is'):
        MomentumEncoder(torch.nn.Identity(), torch.nn.Identity(), momentum)


@pytest.mark.parametrize('sizes', [[3, 3, 3], [5, 4, 7], [7], [1]])
def test_queue_is_the_last_features(sizes):
    queue = FeatureQueue(7, 2)
    history = queue.features.clone()
    for size in sizes:
        batch = torch.randn(size, 2)
        queue.enqueue(batch)
        history = torch.cat([history, batch])
        oldest_first = queue.features.roll(-int(queue.pointer), 0)
        assert torch.equal(oldest_first, history[-7:])


def test_queue_shorter_than_the_batch_is_refused():
    model = build(head=dict(ALGORITHMS['moco-v2']['head'], queue_size=3))
    before = model.head.queue.features.clone()
    model.loss(views(0))
    with pytest.raises(ValueError, match=r'model\.head\.queue_size is 3, but a batch .* has 4 .* Set it to 4 or more'):
        model.after_step()
    assert torch.equal(model.head.queue.features, before)


def test_info_nce_is_the_formula():
    head = InfoNCEHead(dim=3, queue_size=5, temperature=0.3).double()
    query, key = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    naive = 0.0
    for q, k in zip(query, key, strict=True):
        scores = [q @ k / 0.3] + [q @ other / 0.3 for other in head.queue.features]
        naive -= math.log(math.exp(scores[0]) / sum(math.exp(score) for score in scores)) / 4
    assert head(query, key).item() == pytest.approx(naive, abs=1e-12)


def test_collapsed_features_have_the_chance_loss():
    head = InfoNCEHead(dim=3, queue_size=15, temperature=0.07).double()
    same = torch.nn.functional.normalize(torch.ones(4, 3, dtype=torch.float64), dim=1)
    head.queue.features = same[:1].expand(15, 3)
    assert head(same, same).item() == pytest.approx(head.chance_loss, rel=1e-12)
    assert head.chance_loss == math.log(16)


def test_info_nce_keeps_full_precision_under_autocast():
    head = InfoNCEHead(dim=16, queue_size=64, temperature=0.07)
    query, key = (torch.nn.functional.normalize(torch.randn(8, 16), dim=1).bfloat16() for _ in range(2))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = head(query, key)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, head(query.float(), key.float()))
