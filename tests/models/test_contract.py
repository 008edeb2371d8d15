"""What every method promises, with and without Un-Mix; one harness for all of them."""

import copy
import math
import re

import pytest
import torch
from algorithms_under_test import AFTER_OPTIMIZER, ALGORITHMS, ENCODINGS, INDEXED, JOINT, MIXED_CROPS, NUM_VIEWS

from unmix.engine.hooks.health_hook import feature_statistics, matching_features
from unmix.models.algorithms.base import MIXTURE
from unmix.registry import MODELS

UNMIX = dict(type='UnMix')
RUNNING = re.compile(r'running_(mean|var|cov)|num_batches_tracked')


def build(name, unmix=None, seed=0):
    torch.manual_seed(seed)
    model = MODELS.build(dict(ALGORITHMS[name], unmix=unmix)).double()
    if hasattr(model, 'cluster'):
        model.remember(batch(name), torch.arange(6))
        model.cluster(epoch=0)
    return model


def step(model, name):
    """Return the losses of a step, and commit it as one whose gradients accumulate."""
    losses = model.loss(batch(name), torch.arange(6))
    if model.training:
        model.after_step(stepped=False)
    return losses


def copied(tensors):
    return {name: tensor.detach().clone() for name, tensor in tensors}


def state(model):
    """All that a step may move, but BatchNorm's running statistics; the rows of the batch are where they belong."""
    model.head.enter(torch.arange(6))
    return {k: v for k, v in copied(model.state_dict().items()).items() if not RUNNING.search(k)}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def batch(name, size=6):
    generator = torch.Generator().manual_seed(1)
    views = range(NUM_VIEWS.get(name, 2))
    return [torch.randn(size, 3, 8, 8, dtype=torch.float64, generator=generator) for _ in views]


def sgd(model):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    model.head.follow(optimizer)
    return optimizer


def train(model, name, optimizer):
    """Take one optimiser step; return the losses before it."""
    optimizer.zero_grad()
    losses = model.loss(batch(name), torch.arange(6))
    sum(losses.values()).backward()
    optimizer.step()
    model.after_step()
    return losses


@pytest.fixture(params=[None, UNMIX], ids=['plain', 'unmix'])
def unmix(request):
    return request.param


@pytest.mark.parametrize('name', ALGORITHMS)
class TestContract:
    def test_features_can_be_observed_without_a_trace(self, name, unmix):
        model, observed, seen = build(name, unmix), build(name, unmix), []
        observed.observer = lambda queries, targets: seen.append(matching_features(observed, queries, targets))
        assert same(step(model, name), step(observed, name))
        ((features, partners),) = seen
        assert features.ndim == 2
        assert len(features) == 6
        values = feature_statistics(features.detach(), partners.detach(), observed.head)
        assert values.keys() >= {'spread', 'effective_rank', 'uniformity', 'alignment', 'positive_similarity'}
        assert values['alignment'] == pytest.approx(2 - 2 * values['positive_similarity'], abs=1e-9)

    def test_every_parameter_learns(self, name, unmix):
        model = build(name, unmix)
        losses = model(batch(name), index=torch.arange(6), label=torch.zeros(6), mode='loss')
        assert set(losses) == {'loss_base', 'loss_unmix'} if unmix else {'loss_base'}
        assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, key
                assert parameter.grad.isfinite().all(), key

    def test_head_changes_no_state(self, name, unmix):
        model, calls = build(name, unmix), []
        model.observer = lambda queries, targets: calls.append((queries[model.pairs[0][0]], targets[model.pairs[0][1]]))
        step(model, name)
        ((query, target),) = calls
        before = copy.deepcopy(model.head.state_dict())
        first, second = model.head(query, target), model.head(query, target)
        assert first == second
        assert all(torch.equal(before[key], value) for key, value in model.head.state_dict().items())

    def test_head_state_moves_in_one_update_a_step(self, name, unmix):
        model, moments = build(name, unmix), []
        update = model.head.update

        def watched(*features):
            moments.append(copy.deepcopy(dict(model.head.named_buffers())))
            update(*features)
            moments.append(copy.deepcopy(dict(model.head.named_buffers())))

        model.head.enter(torch.arange(6))
        start = copy.deepcopy(dict(model.head.named_buffers()))
        model.head.update = watched
        step(model, name)
        before, after = moments
        end = dict(model.head.named_buffers())
        assert all(torch.equal(after[key], end[key]) for key in end)
        assert all(torch.equal(start[key], before[key]) for key in end)
        moved = {key for key in end if not torch.equal(before[key], after[key])}
        assert bool(moved) == (bool(end) and name not in AFTER_OPTIMIZER)

    def test_unmix_leaves_the_base_loss_and_the_keys_alone(self, name):
        plain, mixed = build(name), build(name, UNMIX)
        assert plain.state_dict().keys() == mixed.state_dict().keys()
        base, both = step(plain, name), step(mixed, name)
        if name in JOINT:
            assert base['loss_base'] != both['loss_base']
            plain, mixed = build(name).eval(), build(name, UNMIX).eval()
            base, both = step(plain, name), step(mixed, name)
        tolerance = dict(rtol=0, atol=1e-12 if name in JOINT else 0)
        torch.testing.assert_close(base['loss_base'], both['loss_base'], **tolerance)
        for key, value in plain.head.state_dict().items():
            torch.testing.assert_close(value, mixed.head.state_dict()[key], **tolerance)

    def test_untouched_mixture_costs_what_view_0_costs(self, name):
        """With lam = 1 the mixture is view 0, and ``loss_unmix`` the plain loss of its pairs."""
        model, expected = build(name, dict(type='UnMix', mixing=dict(type='CutMix'))), []
        model.unmix.mixing.draw = lambda rng, size: (1.0, 0, 0)
        update = model.update_head

        def plain_terms(queries, targets):
            view = {MIXTURE: queries[0][:, MIXED_CROPS[name]] if name in MIXED_CROPS else queries[0]}
            mixed = MIXTURE in {j for _, j in model.mixture_pairs}
            target = {MIXTURE: model.encode_target(batch(name)[0], None, None)} if mixed else {}
            terms = [model.head((queries | view)[i], (targets | target)[j]) for i, j in model.mixture_pairs]
            expected.append(model.mixture_weight * sum(terms))
            update(queries, targets)

        model.update_head = plain_terms
        losses = step(model, name)
        torch.testing.assert_close(losses['loss_unmix'], expected[0], rtol=0, atol=1e-12)
        pairs = {tuple(0 if view == MIXTURE else view for view in pair) for pair in model.mixture_pairs}
        if pairs == set(model.pairs) and name not in MIXED_CROPS:
            torch.testing.assert_close(losses['loss_unmix'], losses['loss_base'], rtol=0, atol=1e-12)

    def test_encoder_commutes_with_the_reversal(self, name):
        model = build(name)
        view = batch(name)[0]
        torch.testing.assert_close(model.encode(view).flip(0), model.encode(view.flip(0)), rtol=0, atol=1e-12)

    def test_encodings_of_a_step(self, name):
        model = build(name, UNMIX)
        calls = {'query': 0, 'target': 0}
        model.backbone.register_forward_hook(lambda *_: calls.update(query=calls['query'] + 1))
        if model.momentum_encoder is not None:
            model.momentum_encoder.backbone.register_forward_hook(lambda *_: calls.update(target=calls['target'] + 1))
        step(model, name)
        assert (calls['query'], calls['target']) == ENCODINGS[name]

    def test_state_dict_round_trip(self, name, unmix):
        """Another model that takes over the state dicts takes the same optimiser steps, bit for bit."""
        model, twin = build(name, unmix), build(name, unmix, seed=1)
        own, others = sgd(model), sgd(twin)
        train(model, name, own)
        twin.load_state_dict(copy.deepcopy(model.state_dict()))
        others.load_state_dict(copy.deepcopy(own.state_dict()))
        twin.step, twin._steps_done = model.step, model._steps_done
        for _ in range(2):
            one, two = train(model, name, own), train(twin, name, others)
            assert all(torch.equal(one[key], two[key]) for key in one)
        assert all(torch.equal(value, twin.state_dict()[key]) for key, value in model.state_dict().items())

    def test_loss_changes_nothing(self, name, unmix):
        """Only BatchNorm's running statistics; and a step that is discarded leaves no trace in the next one."""
        model, untouched = build(name, unmix), build(name, unmix)
        before = state(model)
        state(untouched)
        sum(model.loss(batch(name), torch.arange(6)).values()).backward()
        assert same(state(model), before)
        model.discard_step()
        model.zero_grad()
        assert same(train(model, name, sgd(model)), train(untouched, name, sgd(untouched)))
        assert same(state(model), state(untouched))

    def test_a_step_must_be_committed_or_discarded(self, name, unmix):
        model = build(name, unmix)
        with pytest.raises(RuntimeError, match='call it once after each loss'):
            model.after_step()
        model.loss(batch(name), torch.arange(6))
        with pytest.raises(RuntimeError, match=r'Call model\.after_step\(\) after optimizer\.step\(\)'):
            model.loss(batch(name), torch.arange(6))
        model.after_step(stepped=False)
        with pytest.raises(RuntimeError, match='call it once after each loss'):
            model.after_step()
        with torch.no_grad():
            model.loss(batch(name), torch.arange(6))  # no training, so nothing to commit
        model.eval().loss(batch(name), torch.arange(6))
        model.train().loss(batch(name), torch.arange(6))

    def test_momentum_encoder_moves_after_optimiser_steps_only(self, name, unmix):
        model = build(name, unmix)
        if model.momentum_encoder is None:
            assert not any('momentum' in key for key in model.state_dict())
            return
        optimizer = sgd(model)
        for stepped in (True, False, False, True, True):
            old = copied(model.momentum_encoder.named_parameters())
            losses = model.loss(batch(name), torch.arange(6))
            assert same(copied(model.momentum_encoder.named_parameters()), old)
            sum(losses.values()).backward()
            if stepped:
                optimizer.step()
                optimizer.zero_grad()
            assert same(copied(model.momentum_encoder.named_parameters()), old)
            model.after_step(stepped)
            momentum = model.momentum_encoder.momentum if stepped else 1.0
            online = [*model.backbone.parameters(), *model.neck.parameters()]
            news = model.momentum_encoder.parameters()
            for new, before, weight in zip(news, old.values(), online, strict=True):
                torch.testing.assert_close(new, momentum * before + (1 - momentum) * weight, rtol=0, atol=1e-12)

    def test_draws_differ_from_step_to_step(self, name):
        model = build(name, UNMIX)
        seen = []
        mix = model.unmix.mix
        model.unmix.mix = lambda view, rng: seen.append(mix(view, rng)) or seen[-1]
        for _ in range(3):
            step(model, name)
        assert len({lam for _, lam in seen}) == 3

    def test_unusable_index(self, name, unmix):
        model = build(name, unmix)
        if name not in INDEXED:
            assert model.loss(batch(name))['loss_base'].isfinite()
            return
        num_instances = ALGORITHMS[name]['head']['num_instances']
        with pytest.raises(ValueError, match=r'no `index`.* Let the data set'):
            model.loss(batch(name))
        for start in (-1, num_instances - 5):
            last, message = start + 5, rf'model\.head\.num_instances is {num_instances}: set it to the number'
            with pytest.raises(ValueError, match=f'ids from {start} to {last}, but {message}'):
                model.loss(batch(name), torch.arange(start, start + 6))

    def test_nan_comes_to_light(self, name, unmix):
        """No loss hides it, so that :class:`FiniteLossHook` sees it; W-MSE cannot whiten it."""
        model, views = build(name, unmix), batch(name)
        views[0][0, 0, 0, 0] = math.nan
        if name.startswith('wmse'):
            with pytest.raises(ValueError, match=r'features are NaN.*Lower optim_wrapper\.optimizer\.lr'):
                model.loss(views)
            return
        assert not sum(model.loss(views, torch.arange(6)).values()).isfinite()

    def test_modes(self, name):
        model = build(name).eval()
        view = batch(name)[0]
        features = model(view)
        assert features.shape == (6, model.backbone.out_dim)
        assert torch.equal(features, model.extract_feat(view))
        projection = model.extract_feat(view, stage='neck')
        torch.testing.assert_close(projection.norm(dim=1), torch.ones(6, dtype=torch.float64))
        with pytest.raises(ValueError, match="mode is 'train'"):
            model(view, mode='train')
        with pytest.raises(ValueError, match="stage is 'head'"):
            model.extract_feat(view, stage='head')
