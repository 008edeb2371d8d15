"""What every method promises, with and without Un-Mix; the promises are those of ``unmix.testing``."""

import pytest
from algorithms_under_test import METHODS

from unmix.engine.hooks.health_hook import feature_statistics, matching_features
from unmix.testing import PROMISES, check_promise

CASES = [(promise, form) for promise, (_, forms) in PROMISES.items() for form in forms]


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize(('promise', 'form'), CASES, ids=lambda part: part)
def test_promise(name: str, promise: str, form: str) -> None:
    check_promise(promise, METHODS[name], form)


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('form', ['plain', 'unmix'])
def test_features_can_be_observed_without_a_trace(name: str, form: str) -> None:
    method, seen = METHODS[name], []
    unmix = method.unmix if form == 'unmix' else None
    model, observed = method.build(unmix), method.build(unmix)
    observed.observer = lambda queries, targets: seen.append(matching_features(observed, queries, targets))
    assert method.step(model) == method.step(observed)
    ((features, partners),) = seen
    assert features.ndim == 2
    assert len(features) == 6
    values = feature_statistics(features.detach(), partners.detach(), observed.head)
    assert values.keys() >= {'spread', 'effective_rank', 'uniformity', 'alignment', 'positive_similarity'}
    assert values['alignment'] == pytest.approx(2 - 2 * values['positive_similarity'], abs=1e-9)
