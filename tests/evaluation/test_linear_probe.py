"""Softmax regression against scikit-learn, and the linear probes."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression as Reference

from unmix.evaluation import Features, LinearProbe, feature_statistics, fit_logistic_regression


def digits(dtype=torch.float64):
    data = load_digits()
    pixels, labels = torch.tensor(data.data, dtype=dtype) / 16, torch.tensor(data.target)
    return Features(pixels[:1257], labels[:1257]), Features(pixels[1257:], labels[1257:])


@pytest.mark.slow
@pytest.mark.parametrize('l2', [1e-3, 1e-2])
def test_weights_equal_scikit_learn(l2):
    bank, test = digits()
    ours = fit_logistic_regression(bank.features, bank.labels, l2=l2, max_iter=2000, tolerance=1e-14)
    mean, std = feature_statistics(bank.features)
    reference = Reference(C=1 / (2 * l2 * len(bank.labels)), solver='newton-cg', tol=1e-10, max_iter=1000)
    reference.fit(((bank.features - mean) / std).numpy(), bank.labels.numpy())
    np.testing.assert_allclose(ours.weight.numpy(), reference.coef_.T, atol=1e-5)
    # the bias is free, so only its differences between classes are determined
    np.testing.assert_allclose(
        (ours.bias - ours.bias.mean()).numpy(), reference.intercept_ - reference.intercept_.mean(), atol=1e-5
    )
    expected = reference.predict(((test.features - mean) / std).numpy())
    assert (ours.logits(test.features).argmax(1).numpy() == expected).all()


@pytest.mark.parametrize('classes', [10, 2])
def test_both_solvers_find_the_same(classes):
    bank, test = (Features(x.features[x.labels < classes], x.labels[x.labels < classes]) for x in digits())
    fits = [
        fit_logistic_regression(*bank, l2=1e-3, max_iter=5000, tolerance=1e-10, solver=solver)
        for solver in ('torch', 'sklearn')
    ]
    np.testing.assert_allclose(fits[0].weight, fits[1].weight, atol=2e-4)  # scikit-learn stops a little early
    np.testing.assert_allclose(fits[0].bias - fits[0].bias.mean(), fits[1].bias - fits[1].bias.mean(), atol=2e-4)
    predicted = [fit.logits(test.features).argmax(1) for fit in fits]
    assert torch.equal(*predicted)


def test_the_solver_on_the_host_knows_absent_classes():
    features = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    for present in ([3], [1, 3], [0, 3, 4]):
        labels = torch.tensor(present).repeat(12 // len(present))
        fit = fit_logistic_regression(features, labels, num_classes=6, solver='sklearn')
        assert fit.logits(features).shape == (12, 6)
        assert set(fit.logits(features).argmax(1).tolist()) <= set(present)
    with pytest.raises(ValueError, match="solver is 'newton'"):
        fit_logistic_regression(features, labels, solver='newton')


@pytest.mark.slow
def test_htdts_logistic_regression_is_scikit_learns_on_features_as_they_are():
    bank, test = digits()
    got = [
        LinearProbe(C=1.0, standardize=False, solver=solver, max_iter=1000, tolerance=1e-8)(bank, test)
        for solver in ('auto', 'torch', 'sklearn')
    ]
    reference = Reference(max_iter=1000, tol=1e-8).fit(bank.features.numpy(), bank.labels.numpy())
    expected = 100 * reference.score(test.features.numpy(), test.labels.numpy())
    assert [x['top1'] for x in got] == pytest.approx([expected] * 3, abs=1e-4)
    with pytest.raises(ValueError, match='l2=1 and C=1'):
        LinearProbe(l2=1, C=1)


def test_the_gradient_vanishes_at_the_solution():
    rng = torch.Generator().manual_seed(0)
    features, labels = torch.randn(60, 5, generator=rng, dtype=torch.float64), torch.arange(60) % 3
    fit = fit_logistic_regression(features, labels, l2=0.01, max_iter=1000, tolerance=1e-14)
    inputs = (features - features.mean(0)) / (features.std(0) + 1e-6)
    error = fit.logits(features).softmax(1) - torch.eye(3, dtype=torch.float64)[labels]
    gradient = inputs.T @ error / 60 + 2 * 0.01 * fit.weight
    assert gradient.abs().max() < 1e-8
    assert error.mean(0).abs().max() < 1e-8


def test_probe_does_not_depend_on_scale_and_survives_constant_features():
    bank, test = digits(torch.float32)
    expected = LinearProbe()(bank, test)['top1']
    scaled = [
        Features(torch.cat([x.features * 4 + 2, torch.ones(len(x.features), 1)], 1), x.labels) for x in (bank, test)
    ]
    assert LinearProbe()(*scaled)['top1'] == pytest.approx(expected, abs=0.4)  # two of 540 images


@pytest.mark.slow
def test_raw_digits_reach_the_known_accuracy():
    bank, test = digits(torch.float32)
    assert LinearProbe()(bank, test)['top1'] == pytest.approx(91.3, abs=0.4)
    assert LinearProbe(labels_per_class=10)(bank, test)['top1'] == pytest.approx(84.7, abs=2.0)


def test_few_labels_are_drawn_per_class_and_by_the_seed_alone():
    probe = LinearProbe(labels_per_class=3)
    labels = torch.tensor([0] * 10 + [2] * 2 + [5] * 7)[torch.randperm(19)]
    rows = probe.draw(labels, 0)
    assert labels[rows].bincount().tolist() == [3, 0, 2, 0, 0, 3]  # all there are of class 2
    assert rows.unique().numel() == 8
    torch.manual_seed(5)
    assert torch.equal(LinearProbe(labels_per_class=3).draw(labels, 0), rows)
    assert not torch.equal(probe.draw(labels, 1), rows)
    assert not torch.equal(LinearProbe(labels_per_class=3, seed=1).draw(labels, 0), rows)


def test_few_labels_are_a_mean_over_draws_with_statistics_of_all_features():
    bank, test = digits()
    probe = LinearProbe(labels_per_class=2, draws=3)
    mean, std = feature_statistics(bank.features)
    accuracies = []
    for draw in range(3):
        rows = probe.draw(bank.labels, draw)
        fit = fit_logistic_regression(bank.features[rows], bank.labels[rows], 10, 1e-2, (mean, std))
        accuracies.append(100 * (fit.logits(test.features).argmax(1) == test.labels).double().mean().item())
    assert probe(bank, test) == {'top1': pytest.approx(np.mean(accuracies), abs=1e-9)}
    assert len(set(accuracies)) > 1


def test_names_and_bad_arguments():
    assert [LinearProbe().name, LinearProbe(labels_per_class=10).name] == ['linear', 'linear_10_per_class']
    with pytest.raises(ValueError, match='draws=0'):
        LinearProbe(draws=0)
    with pytest.raises(ValueError, match='labels_per_class=0'):
        LinearProbe(labels_per_class=0)
    with pytest.raises(ValueError, match='from 0 to 2; expected 0 to 1'):
        fit_logistic_regression(torch.eye(3), torch.arange(3), num_classes=2)
    with pytest.raises(ValueError, match=r'\(0, 3\)'):
        fit_logistic_regression(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
