"""Weighted kNN against a loop in plain numpy."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from unmix.evaluation import KNN, EuclideanKNN, Features, knn_predict, knn_scores


def naive_scores(features, bank, labels, k, temperature, num_classes):
    """One image, one neighbour at a time; equally near neighbours by smallest label."""
    scores = np.zeros((len(features), num_classes))
    for m, feature in enumerate(features):
        similarity = [float(np.dot(feature, row)) for row in bank]
        nearest = sorted(range(len(bank)), key=lambda n: (-similarity[n], labels[n]))[:k]
        for n in nearest:
            scores[m, labels[n]] += np.exp(similarity[n] / temperature)
    return scores


def random_case(rng):
    """Small random problem; every second one on a grid, where many similarities are exactly equal."""
    size, images, dim = int(rng.integers(1, 40)), int(rng.integers(1, 8)), int(rng.integers(1, 6))
    num_classes, k = int(rng.integers(1, 6)), int(rng.integers(1, 50))
    if rng.random() < 0.5:  # rows +-1/2 in 4 dimensions: unit rows, similarities are multiples of 1/2, exactly
        bank, features = (rng.integers(0, 2, (n, 4)) - 0.5 for n in (size, images))
    else:
        bank, features = (F.normalize(torch.tensor(rng.normal(size=(n, dim))), dim=1).numpy() for n in (size, images))
    return features, bank, rng.integers(0, num_classes, size), k, num_classes


@pytest.mark.parametrize('chunk_size', [None, 1, 3])
def test_scores_equal_a_naive_loop(chunk_size):
    rng = np.random.default_rng(0)
    for _ in range(200):
        features, bank, labels, k, num_classes = random_case(rng)
        expected = naive_scores(features, bank, labels, k, 0.1, num_classes)
        got = knn_scores(*map(torch.tensor, (features, bank, labels)), k, 0.1, num_classes, chunk_size)
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-10)


def test_prediction_ranks_classes_and_ties_go_to_the_smallest():
    bank = torch.eye(4)[[0, 0, 1, 2]]
    labels = torch.tensor([3, 1, 2, 0])
    # the first image is as near to class 1 as to class 3, and 0 and 2 are equally far; no neighbour is of class 4
    assert knn_predict(torch.eye(4)[:1], bank, labels, k=4, num_classes=5).tolist() == [[1, 3, 0, 2, -1]]
    assert knn_predict(torch.eye(4)[:1], bank, labels, k=2).tolist() == [[1, 3, -1, -1]]
    assert knn_predict(torch.eye(4)[:1], bank, labels, k=4).tolist() == [[1, 3, 0, 2]]
    # the only neighbour that counts is the one with the smallest label, wherever it stands in the bank
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]):
        scores = knn_scores(torch.eye(4)[:1], bank[order], labels[order], k=1, num_classes=4)
        assert scores.argmax().item() == 1
        assert (scores > 0).sum() == 1


def test_float32_is_close_to_float64():
    rng = torch.Generator().manual_seed(0)
    features, bank = (F.normalize(torch.randn(n, 16, generator=rng, dtype=torch.float64), dim=1) for n in (30, 200))
    labels = torch.randint(7, (200,), generator=rng)
    expected = knn_scores(features, bank, labels, 20)
    assert expected.dtype == torch.float64
    torch.testing.assert_close(
        knn_scores(features.float(), bank.float(), labels, 20).double(), expected, rtol=1e-4, atol=0
    )


def test_metric_normalises_and_counts_top5():
    rng = torch.Generator().manual_seed(0)
    bank = Features(torch.randn(90, 8, generator=rng), torch.arange(90) % 9)
    test = Features(torch.randn(37, 8, generator=rng), torch.arange(37) % 9)
    result = KNN(k=10)(bank, test)
    unit = [F.normalize(x, dim=1).double().numpy() for x in (test.features, bank.features)]
    order = np.argsort(-naive_scores(*unit, bank.labels.numpy(), 10, 0.1, 9), axis=1, kind='stable')
    hits = order == test.labels.numpy()[:, None]
    assert result == {
        'top1': pytest.approx(100 * hits[:, 0].mean()),
        'top5': pytest.approx(100 * hits[:, :5].sum(1).mean()),
    }
    # scaling a feature changes nothing
    assert KNN(k=10)(Features(bank.features * 7, bank.labels), Features(test.features * 0.1, test.labels)) == result


def test_metrics_leave_the_features_as_they_are():
    rng = torch.Generator().manual_seed(0)
    bank, test = (Features(torch.randn(n, 8, generator=rng), torch.arange(n) % 9) for n in (90, 37))
    before = [x.clone() for x in (*bank, *test)]
    for metric in (KNN(), EuclideanKNN()):
        metric(bank, test)
        assert all(torch.equal(x, y) for x, y in zip((*bank, *test), before, strict=True))


def test_sets_of_k_and_temperature_equal_one_metric_each():
    rng = np.random.default_rng(1)
    grid = [torch.tensor(rng.integers(0, 2, (n, 4)) - 0.5) for n in (60, 33)]  # many ties at every rank
    bank, test = (Features(x, torch.tensor(rng.integers(0, 7, len(x)))) for x in grid)
    got = KNN(k=(1, 5, 100), temperature=(0.07, 0.5))(bank, test)
    expected = {}
    for k in (1, 5, 100):
        for t in (0.07, 0.5):
            expected |= {f'knn_{k}_t{t}/{key}': value for key, value in KNN(k, t)(bank, test).items()}
    assert got == expected
    assert len(expected) == 12
    assert KNN(k=[1, 5])(bank, test).keys() == {'knn_1/top1', 'knn_1/top5', 'knn_5/top1', 'knn_5/top5'}
    with pytest.raises(ValueError, match=r'k=\[\]'):
        KNN(k=[])


def naive_hits(features, bank, labels, truth, k, temperature, euclidean=False):
    """Percent of hits of the top 1 and the top 5, one vote at a time: a class without a vote is in no list."""
    if not euclidean:
        features, bank = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (features, bank))
    hits = np.zeros(2)
    for feature, own in zip(features, truth, strict=True):
        nearness = [-float(np.linalg.norm(feature - row)) if euclidean else float(feature @ row) for row in bank]
        votes = {}
        for n in sorted(range(len(bank)), key=lambda n: (-nearness[n], labels[n]))[:k]:
            votes[labels[n]] = votes.get(labels[n], 0.0) + (1.0 if euclidean else np.exp(nearness[n] / temperature))
        ranking = sorted(votes, key=lambda c: (-votes[c], c))
        hits += [own in ranking[:1], own in ranking[:5]]
    return 100 * hits / len(truth)


@pytest.mark.parametrize('num_classes', [1, 3, 5, 6, 11])
def test_metrics_equal_a_naive_loop(num_classes):
    """One neighbour to more than the bank has; all similarities negative; classes that only one of the sets has."""
    rng = np.random.default_rng(num_classes)
    for case in range(12):
        bank, features = (rng.normal(size=(n, 3)) for n in (int(rng.integers(1, 30)), 7))
        if case % 3 == 1:
            bank, features = np.abs(bank), -np.abs(features)
        labels, truth = rng.integers(0, num_classes, len(bank)), rng.integers(0, num_classes, 7)
        sets = [Features(torch.tensor(x), torch.tensor(y)) for x, y in ((bank, labels), (features, truth))]
        several = max(labels.max(), truth.max()) >= 5
        for k in (1, 2, 5, 200):
            for temperature in (0.0125, 0.1, 10.0):
                top1, top5 = naive_hits(features, bank, labels, truth, k, temperature)
                expected = {'top1': pytest.approx(top1)} | ({'top5': pytest.approx(top5)} if several else {})
                assert KNN(k, temperature)(*sets) == expected
            top1, _ = naive_hits(features, bank, labels, truth, k, 1.0, euclidean=True)
            assert EuclideanKNN(k)(*sets) == {'top1': pytest.approx(top1)}


def test_one_neighbour_has_no_second_class():
    rng = torch.Generator().manual_seed(0)
    bank, test = (Features(torch.randn(n, 8, generator=rng), torch.randint(10, (n,), generator=rng)) for n in (50, 80))
    result = KNN(k=1)(bank, test)
    assert result['top5'] == result['top1'] < 30


def test_scores_of_half_precision_do_not_overflow():
    """200 neighbours at temperature 0.1 weigh 4e6, more than float16 holds."""
    bank, labels = torch.ones(200, 1, dtype=torch.float16), (torch.arange(200) > 50).long()
    scores = knn_scores(bank[:1], bank, labels)
    torch.testing.assert_close(scores, torch.tensor([[51.0, 149.0]]) * torch.tensor(10.0).exp())


def test_metric_on_few_classes_has_no_top5_and_unknown_classes_are_wrong():
    bank = Features(torch.eye(2), torch.tensor([0, 1]))
    assert KNN(k=1)(bank, Features(torch.eye(2), torch.tensor([0, 4]))) == {'top1': 50.0}


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(k=0), 'k=0'),
        (dict(temperature=0.0), 'temperature=0.0'),
        (dict(temperature=0.01), 'finite torch.float32'),
        (dict(k=1000, temperature=0.0115), 'k=1000'),
        (dict(k=2.5), 'k=2.5 .* whole numbers'),
        (dict(chunk_size=0), 'chunk_size=0'),
        (dict(num_classes=1), 'from 0 to 1; expected 0 to 0'),
        (dict(bank_labels=torch.tensor([-1, 0])), 'from -1'),
        (dict(bank_labels=torch.tensor([0])), r'labels \(1,\)'),
        (dict(bank=torch.zeros(0, 2), bank_labels=torch.zeros(0, dtype=torch.long)), 'bank is empty'),
    ],
)
def test_bad_input_is_refused(arguments, message):
    fine = dict(features=torch.eye(2), bank=torch.eye(2), bank_labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=message):
        knn_scores(**{**fine, **arguments})
    if not arguments.keys() - {'k', 'temperature', 'chunk_size'}:
        with pytest.raises(ValueError, match=message):
            KNN(**arguments)
