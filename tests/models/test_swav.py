"""SwAV's own rules: the loss as written, queues, frozen prototypes, crops, flips, shares."""

import math

import pytest
import torch
from algorithms_under_test import ALGORITHMS
from torch.nn import functional as F

from unmix.models.algorithms.base import MIXTURE
from unmix.models.heads import SwAVHead, sinkhorn
from unmix.registry import MODELS

UNMIX = dict(type='UnMix')


def build(head=None, **changes):
    torch.manual_seed(0)
    config = ALGORITHMS['swav']
    model = MODELS.build(dict(config, **changes, head=dict(config['head'], **(head or {})))).double()
    model.head.enter(None)  # prototypes of unit length in float64
    return model


def crops(seed=0, size=6, sizes=(8, 8)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 3, side, side, dtype=torch.float64, generator=generator) for side in sizes]


def features(*shape):
    return F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def naive_loss(head, views):
    """The double sum over codes and predictions, crop by crop."""
    weight, total = head.prototypes.weight, 0.0
    for i in range(2):
        code = sinkhorn(views[i] @ weight.T, head.epsilon, head.sinkhorn_iterations)
        for v, view in enumerate(views):
            if v != i:
                probability = (view @ weight.T / head.temperature).softmax(1)
                total += -(code * probability.log()).sum(1).mean() / (2 * (len(views) - 1))
    return total


@pytest.mark.parametrize('num_crops', [2, 3, 6])
def test_head_is_the_formula(num_crops):
    head = SwAVHead(dim=4, num_prototypes=5).double()
    head.after_step()
    views = features(num_crops, 6, 4)
    stacked = views.transpose(0, 1)
    loss = head(stacked[:, 0::2], stacked[:, 1::2])
    torch.testing.assert_close(loss, naive_loss(head, views), rtol=0, atol=1e-12)
    terms = head.terms(stacked[:, 0::2], head.prepare(stacked[:, 1::2]))
    torch.testing.assert_close(terms.sum(), loss, rtol=0, atol=1e-12)


def test_equal_features_have_the_chance_loss():
    head = SwAVHead(dim=4, num_prototypes=5).double()
    head.prototypes.weight.data = features(1, 4).expand(5, 4).clone()
    same = features(1, 4).expand(6, 4)
    assert head(same, same).item() == pytest.approx(head.chance_loss) == pytest.approx(math.log(5))


def test_prototypes_stay_put_while_frozen_and_learn_after():
    model = build(head=dict(freeze_steps=2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(4):
        before = model.head.prototypes.weight.detach().clone()
        model.loss(crops(step))['loss_base'].backward()
        optimizer.step()
        optimizer.zero_grad()
        model.after_step()
        after = model.head.prototypes.weight.detach()
        assert torch.equal(before, after) if step < 2 else not torch.equal(before, after)


def test_queue_is_used_when_full_and_holds_the_first_crops():
    """With a batch of 6 and a queue of 12: two steps without it, then codes of batch and queue together."""
    model = build(unmix=UNMIX)
    head, history = model.head, [[], []]
    for step in range(4):
        with torch.no_grad():
            encoded = model.eval().encode_all(dict(enumerate([[crop] for crop in crops(step)])))
            for crop in range(2):
                scores = encoded[crop][:, 0] @ head.prototypes.weight.T
                queue = torch.cat(history[crop][-2:]) @ head.prototypes.weight.T if step >= 2 else scores[:0]
                expected = sinkhorn(torch.cat([queue, scores]), head.epsilon)[len(queue) :]
                torch.testing.assert_close(head.assign(scores, crop), expected, rtol=0, atol=1e-12)
                history[crop].append(encoded[crop][:, 0])
        model.training = True  # BatchNorm stays in evaluation mode
        model.loss(crops(step))
        model.after_step()
        assert head.queued == min(6 * (step + 1), 12)
    for queue, past in zip(head.queues, history, strict=True):
        oldest_first = queue.features.roll(-int(queue.pointer), 0)
        torch.testing.assert_close(oldest_first, torch.cat(past[-2:]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(('push', 'steps'), [('once_clean', 15), ('every_call', 5)])
def test_steps_until_the_queue_is_full(push, steps):
    """The published queue of 3840 at 4 x 64 holds 15 batches; the release fills it in 5 steps."""
    model = build(unmix=UNMIX, head=dict(queue_size=15 * 6, queue_push=push))
    full = []
    for step in range(steps):
        model.loss(crops(step))
        model.after_step()
        full.append(int(model.head.queued) == 15 * 6)
    assert full == [False] * (steps - 1) + [True]


def test_queue_waits_for_its_epoch():
    model = build(head=dict(queue_start=1))
    model.loss(crops())
    model.after_step()
    assert model.head.queued == 0


def test_mixtures_are_in_the_same_batch_norm():
    """One pass of the backbone a resolution, one of the neck, over crops and mixtures."""
    model, seen = build(unmix=UNMIX, head=dict(queue_size=0)), []
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    model.neck.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    model.loss(crops(sizes=(12, 12, 8, 8, 8, 8)))
    assert seen == [(18, 3, 12, 12), (36, 3, 8, 8), (54, 16)]


def test_crops_come_back_in_order():
    model = build().eval()
    views = crops(sizes=(8, 12, 8, 12, 8))
    encoded = model.encode_all({0: views[0::2], 1: views[1::2]})
    for i, view in enumerate(views):
        torch.testing.assert_close(encoded[i % 2][:, i // 2], model.encode(view), rtol=0, atol=1e-12)


@pytest.mark.parametrize('flip_mode', ['full', 'code_only'])
@pytest.mark.parametrize('num_crops', [2, 4])
def test_second_term(flip_mode, num_crops):
    """S of the reverse, in full or of its code only, against the naive sum."""
    model = build(flip_mode=flip_mode, unmix=UNMIX, head=dict(queue_size=0))
    head = model.head
    head.after_step()
    mixture, target = features(6, num_crops // 2, 8), features(6, num_crops // 2, 8)
    lam = 0.3
    loss = model.mixture_loss(None, lam, {0: mixture, MIXTURE: mixture}, {1: head.prepare(target)}, {1: target})
    order = [(mixture, target)[v % 2][:, v // 2] for v in range(num_crops)]
    reverse = [(mixture.flip(0), target)[v % 2][:, v // 2] for v in range(num_crops)]
    weight = head.prototypes.weight
    if flip_mode == 'full':
        second = naive_loss(head, reverse)
    else:
        codes = [sinkhorn(reverse[i] @ weight.T, head.epsilon) for i in range(2)]
        second = 0.0
        for i, v in [(i, v) for i in range(2) for v in range(num_crops) if i != v]:
            log_probability = (order[v] @ weight.T / head.temperature).log_softmax(1)
            second -= (codes[i] * log_probability).sum(1).mean() / (2 * (num_crops - 1))
    expected = lam * naive_loss(head, order) + (1 - lam) * second
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('num_crops', [2, 4, 8])
def test_released_reverse_leaves_the_clean_code_its_full_weight(num_crops):
    """lam S + (1 - lam) S^R = [lam A + (1 - lam) A^R + B] / (2 (V - 1)): B, predicting the clean code, has no lam."""
    model = build(flip_mode='code_only', unmix=UNMIX, head=dict(queue_size=0))
    head, lam = model.head, 0.3
    head.after_step()
    mixture, target = features(6, num_crops // 2, 8), features(6, num_crops // 2, 8)
    views = [(mixture, target)[v % 2][:, v // 2] for v in range(num_crops)]
    q0, q1 = (sinkhorn(head.scores(view), head.epsilon) for view in views[:2])

    def predict(code, but):
        log_probabilities = [(head.scores(view) / head.temperature).log_softmax(1) for view in views]
        return -sum((code * log_p).sum(1).mean() for v, log_p in enumerate(log_probabilities) if v != but)

    expected = lam * predict(q0, 0) + (1 - lam) * predict(q0.flip(0), 0) + predict(q1, 1)
    loss = model.mixture_loss(None, lam, {0: mixture, MIXTURE: mixture}, {1: head.prepare(target)}, {1: target})
    torch.testing.assert_close(loss, expected / (2 * (num_crops - 1)), rtol=0, atol=1e-12)


def test_shares_of_each_pair_weight_its_terms():
    """With equal shares all policies agree; a share of one pair moves only the terms of that pair."""
    model = build(unmix=UNMIX, head=dict(queue_size=0))
    mixture, target = features(6, 2, 8), features(6, 2, 8)
    queries, targets = {0: mixture, MIXTURE: mixture}, {1: model.head.prepare(target)}

    def loss(lam):
        return model.mixture_loss(None, lam, queries, targets, {1: target})

    torch.testing.assert_close(loss(torch.tensor([0.3, 0.3], dtype=torch.float64)), loss(0.3), rtol=0, atol=1e-12)
    terms, reverse_terms = (model.head.terms(x, model.head.prepare(target)) for x in (mixture, mixture.flip(0)))
    expected = 0.3 * terms[0] + 0.7 * reverse_terms[0] + 0.9 * terms[1] + 0.1 * reverse_terms[1]
    torch.testing.assert_close(loss(torch.tensor([0.3, 0.9], dtype=torch.float64)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(('unmix', 'push', 'num'), [
    (None, 'once_clean', 2), (UNMIX, 'once_clean', 3), (None, 'every_call', 2), (UNMIX, 'every_call', 6),
])  # fmt: skip
def test_sinkhorns_of_a_step(unmix, push, num, monkeypatch):
    """Those of the clean crops and of the mixture; the release has six, which pushes between them make differ."""
    model, calls = build(unmix=unmix, head=dict(queue_push=push)), []
    monkeypatch.setattr('unmix.models.heads.swav.sinkhorn', lambda *args: calls.append(args) or sinkhorn(*args))
    model.loss(crops())
    assert len(calls) == num


@pytest.mark.parametrize('sizes', [(8, 8, 6), (8, 8, 8, 6), (8, 8, 8, 6, 6, 6)])
def test_unmix_needs_pairs(sizes):
    with pytest.raises(ValueError, match='an even number of crops of each resolution'):
        build(unmix=UNMIX, head=dict(queue_size=0)).loss(crops(sizes=sizes))
    build(head=dict(queue_size=0)).loss(crops(sizes=sizes))


@pytest.mark.parametrize(('changes', 'message'), [
    (dict(flip_mode='half'), r"model\.flip_mode is 'half'"),
    (dict(head=dict(queue_push='twice')), r"head\.queue_push is 'twice'"),
    (dict(head=dict(temperature=0)), r'head\.temperature is 0'),
    (dict(unmix=dict(type='UnMix', lam_policy='last')), r"unmix\.lam_policy is 'last'"),
])  # fmt: skip
def test_bad_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


@pytest.mark.parametrize(('queue_size', 'batch', 'fitting'), [(120, 7, 119), (5, 7, 7), (120, 128, 128)])
def test_queue_must_hold_whole_batches(queue_size, batch, fitting):
    """The last one is published for CIFAR, where the release makes it 0."""
    message = rf'queue_size is {queue_size}, which is not .* 1 x {batch} = {batch}\. Use {fitting} or 0'
    with pytest.raises(ValueError, match=message):
        build(head=dict(queue_size=queue_size)).loss(crops(size=batch))


def test_each_rank_scores_its_share_of_the_queue(monkeypatch):
    """Of the published queue of 3840, on 4 x 64, each rank has 960 rows."""
    head, seen = SwAVHead(dim=4, num_prototypes=5, queue_size=3840), []
    monkeypatch.setattr('unmix.models.heads.swav.get_world_size', lambda: 4)
    for rank in range(4):
        monkeypatch.setattr('unmix.models.heads.swav.get_rank', lambda rank=rank: rank)
        monkeypatch.setattr(head, 'scores', lambda rows: seen.append(rows) or SwAVHead.scores(head, rows))
        head.assign(torch.zeros(64, 5), 0)
    assert [len(rows) for rows in seen] == [960] * 4
    assert torch.equal(torch.cat(seen), head.queues[0].features)


def test_one_crop_is_refused():
    with pytest.raises(ValueError, match='at least 2 crops'):
        build().loss(crops(sizes=(8,)))
