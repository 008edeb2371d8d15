"""Linear layers trained on frozen features, against a naive loop in numpy."""

import numpy as np
import pytest
import torch

from unmix.evaluation import Features, LinearTraining
from unmix.utils.rng import generator


def data(classes=3, dtype=torch.float64):
    rng = torch.Generator().manual_seed(1)
    parts = []
    for size in (25, 14):
        labels = torch.arange(size) % classes
        noise = torch.randn(size, 4, generator=rng, dtype=dtype)
        parts.append(Features(noise + labels[:, None] * torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=dtype), labels))
    return parts


def gradient(weight, bias, x, y):
    """Of the mean cross-entropy, one sample and one class at a time."""
    dw, db = np.zeros_like(weight), np.zeros_like(bias)
    for row, label in zip(x, y, strict=True):
        scores = weight @ row + bias
        p = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        for c in range(len(bias)):
            error = (p[c] - (c == label)) / len(x)
            dw[c] += error * row
            db[c] += error
    return [dw, db]


def naive_adam(params, x, y, epochs, batch, lr0, decay, gamma, seed):
    """htdt's recipe: Adam with the decay in the gradient; the rate falls by a factor after each epoch."""
    rng, t = generator('linear_training', seed), 0
    m, v = ([np.zeros_like(p) for p in params] for _ in range(2))
    for epoch in range(epochs):
        order = rng.permutation(len(x))
        for start in range(0, len(x), batch):
            rows, t = order[start : start + batch], t + 1
            for i, g in enumerate(gradient(*params, x[rows], y[rows])):
                g = g + decay * params[i]
                m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g**2
                step = m[i] / (1 - 0.9**t) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
                params[i] = params[i] - lr0 * gamma**epoch * step
    return params


@pytest.mark.parametrize(
    ('scheduler', 'gamma'),
    [
        (None, 1e-4 ** (1 / 4)),  # the default falls to 1e-4 of the rate, whatever the number of epochs
        (dict(type='ExponentialLR', gamma=0.5), 0.5),
        (dict(type='ConstantLR', factor=1), 1.0),
    ],
)
def test_htdt_recipe_equals_a_naive_loop(scheduler, gamma):
    bank, test = data()
    metric = LinearTraining(epochs=4, batch_size=10, scheduler=scheduler)
    layers = metric.layers(bank.features, 3)
    bound = 1 / np.sqrt(4)  # PyTorch's initialisation is uniform up to it
    assert 0 < layers[0].weight.abs().max() < bound
    params = [p.detach().numpy().copy() for p in layers[0].parameters()]
    expected = naive_adam(params, bank.features.numpy(), bank.labels.numpy(), 4, 10, 1e-2, 5e-6, gamma, 0)
    metric.layers = lambda *_: layers  # so that they can be looked at
    result = metric(bank, test)
    for got, wanted in zip(layers[0].parameters(), expected, strict=True):
        np.testing.assert_allclose(got.detach().numpy(), wanted, rtol=1e-9, atol=1e-12)
    predicted = (test.features.numpy() @ expected[0].T + expected[1]).argmax(1)
    assert result['top1'] == pytest.approx(100 * (predicted == test.labels.numpy()).mean())


def test_defaults_are_htdts():
    default = LinearTraining()
    assert (default.lrs, default.epochs, default.batch_size, default.std) == ([1e-2], 500, 1000, None)
    assert default.optimizer == dict(type='Adam', weight_decay=5e-6)
    assert default.scheduler['type'] == 'ExponentialLR'
    assert default.lrs[0] * default.scheduler['gamma'] ** 500 == pytest.approx(1e-6)


def test_a_training_that_diverges_has_no_hit():
    """Scores of NaN rank no class first."""
    bank, test = data(classes=7, dtype=torch.float32)
    got = LinearTraining(lr=(1e38, 1e-2), epochs=3, batch_size=5, optimizer=dict(type='SGD'), name='x')(bank, test)
    assert (got['x_lr1e+38/top1'], got['x_lr1e+38/top5'], got['lr']) == (0.0, 0.0, 1e-2)


def test_several_rates_in_one_pass_are_each_its_own_training():
    bank, test = data(classes=7)
    cfg = dict(epochs=6, batch_size=8, optimizer=dict(type='SGD', momentum=0.9), std=0.01, name='x')
    got = LinearTraining(lr=(1.0, 0.1, 1e-6), **cfg)(bank, test)
    singles = {lr: LinearTraining(lr=lr, **cfg)(bank, test) for lr in (1.0, 0.1, 1e-6)}
    for lr, single in singles.items():
        assert set(single) == {'top1', 'top5', 'best_top1', 'best_epoch'}
        assert {key.split('/')[1]: value for key, value in got.items() if key.startswith(f'x_lr{lr:g}/')} == single
    best = max(singles, key=lambda lr: singles[lr]['top1'])
    assert got['lr'] == best
    assert {key: got[key] for key in singles[best]} == singles[best]
    assert len({single['top1'] for single in singles.values()}) > 1


def test_best_is_over_the_epochs_and_last_is_the_last():
    bank, test = data(classes=7)
    metric = LinearTraining(lr=3.0, epochs=30, batch_size=5, optimizer=dict(type='SGD'))
    history = metric.train(bank, test, 7)[:, 0, 0]
    result = metric(bank, test)
    assert result['top1'] == history[-1]
    assert (result['best_top1'], result['best_epoch']) == (history.max(), history.argmax() + 1)
    assert result['best_top1'] > result['top1']  # at this rate the accuracy goes up and down
    torch.manual_seed(5)
    assert metric(bank, test) == result  # nothing depends on the global random numbers


def test_bad_arguments_are_refused():
    for arguments in (dict(lr=()), dict(epochs=0), dict(batch_size=0)):
        with pytest.raises(ValueError, match='LinearTraining: lr='):
            LinearTraining(**arguments)
