"""What every method promises, with and without Un-Mix; one harness for all of them."""

import copy

import pytest
import torch
from algorithms_under_test import ALGORITHMS, ENCODINGS, JOINT, NUM_VIEWS, PARTIAL

from unmix.engine.hooks.health_hook import feature_statistics, matching_features
from unmix.models.algorithms.base import MIXTURE
from unmix.registry import MODELS

UNMIX = dict(type='UnMix')


def build(name, unmix=None):
    torch.manual_seed(0)
    model = MODELS.build(dict(ALGORITHMS[name], unmix=unmix)).double()
    if hasattr(model, 'cluster'):
        model.remember(batch(name), torch.arange(6))
        model.cluster(epoch=0)
    return model


def step(model, name):
    return model.loss(batch(name), torch.arange(6))


def batch(name, size=6):
    generator = torch.Generator().manual_seed(1)
    views = range(NUM_VIEWS.get(name, 2))
    return [torch.randn(size, 3, 8, 8, dtype=torch.float64, generator=generator) for _ in views]


@pytest.fixture(params=[None, UNMIX], ids=['plain', 'unmix'])
def unmix(request):
    return request.param


@pytest.mark.parametrize('name', ALGORITHMS)
class TestContract:
    def test_features_can_be_observed_without_a_trace(self, name, unmix):
        model, observed, seen = build(name, unmix), build(name, unmix), []
        observed.observer = lambda queries, targets: seen.append(matching_features(observed, queries, targets))
        losses = step(model, name), step(observed, name)
        assert all(torch.equal(losses[0][key], losses[1][key]) for key in losses[0])
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
        model.head.register_forward_pre_hook(lambda _, arguments: calls.append(arguments))
        step(model, name)
        query, target = calls[0]
        before = copy.deepcopy(model.head.state_dict())
        first, second = model.head(query, target), model.head(query, target)
        assert first == second
        assert all(torch.equal(before[key], value) for key, value in model.head.state_dict().items())

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

    def test_untouched_mixture_costs_the_base_loss(self, name):
        """With lam = 1 the mixture is view 0: if it stands in all pairs of view 0, its loss is the base loss."""
        model = build(name, dict(type='UnMix', mixing=dict(type='CutMix')))
        model.unmix.mixing.draw = lambda rng, size: (1.0, 0, 0)
        losses = step(model, name)
        pairs = {tuple(0 if view == MIXTURE else view for view in pair) for pair in model.mixture_pairs}
        if pairs == set(model.pairs) and name not in PARTIAL:
            torch.testing.assert_close(losses['loss_unmix'], losses['loss_base'], rtol=0, atol=1e-12)
        else:
            assert losses['loss_unmix'] != losses['loss_base']

    def test_encoder_commutes_with_the_reversal(self, name):
        model = build(name)
        view = batch(name)[0]
        torch.testing.assert_close(model.encode(view).flip(0), model.encode(view.flip(0)), rtol=0, atol=1e-12)

    def test_encodings_of_a_step(self, name):
        model = build(name, UNMIX)
        calls = {'query': 0, 'target': 0}
        model.backbone.register_forward_hook(lambda *_: calls.update(query=calls['query'] + 1))
        if hasattr(model, 'momentum_encoder'):
            model.momentum_encoder.backbone.register_forward_hook(lambda *_: calls.update(target=calls['target'] + 1))
        step(model, name)
        assert (calls['query'], calls['target']) == ENCODINGS[name]

    def test_a_step_is_a_function_of_the_state(self, name, unmix):
        """A copy made through the state dict takes the same steps, bit for bit."""
        model, twin = build(name, unmix), build(name, unmix)
        step(model, name)
        twin.load_state_dict(model.state_dict())
        twin._call = model._call
        one, two = step(model, name), step(twin, name)
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert all(torch.equal(value, twin.state_dict()[key]) for key, value in model.state_dict().items())

    def test_draws_differ_from_step_to_step(self, name):
        model = build(name, UNMIX)
        seen = []
        mix = model.unmix.mix
        model.unmix.mix = lambda view, rng: seen.append(mix(view, rng)) or seen[-1]
        for _ in range(3):
            step(model, name)
        assert len({lam for _, lam in seen}) == 3

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
