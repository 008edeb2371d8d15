"""kNN by majority against a naive loop."""

from collections import Counter

import pytest
import torch

from unmix.evaluation import EuclideanKNN, Features, knn_vote


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    bank, labels = torch.randn(60, 4, generator=generator), torch.randint(3, (60,), generator=generator)
    return torch.randn(30, 4, generator=generator), bank, labels


@pytest.mark.parametrize('k', [1, 4, 7])
def test_vote_is_the_naive_loop(k):
    features, bank, labels = data()
    predicted, neighbours = knn_vote(features, bank, labels, k)
    for n, feature in enumerate(features):
        order = (bank - feature).norm(dim=1).argsort()[:k]
        assert neighbours[n].tolist() == labels[order].tolist()
        counts = Counter(labels[order].tolist())
        assert predicted[n] == min(label for label, count in counts.items() if count == max(counts.values()))


def test_features_are_not_normalised():
    bank = torch.tensor([[10.0, 0.0], [0.0, 1.0]])
    predicted, _ = knn_vote(torch.tensor([[1.0, 0.1]]), bank, torch.tensor([0, 1]), k=1)
    assert predicted.tolist() == [1]


def test_more_neighbours_than_images_are_all_of_them():
    features, bank, labels = data()
    predicted, neighbours = knn_vote(features, bank, labels, k=1000)
    assert neighbours.shape == (30, 60)
    assert predicted.tolist() == [int(labels.bincount().argmax())] * 30


def test_metric_is_the_accuracy():
    features, bank, labels = data()
    truth = torch.arange(30) % 3
    predicted, _ = knn_vote(features, bank, labels, 5)
    hits = sum(int(p == t) for p, t in zip(predicted, truth, strict=True))
    assert EuclideanKNN(5)(Features(bank, labels), Features(features, truth)) == {'top1': pytest.approx(hits / 0.3)}


def test_equally_near_neighbours_count_by_label_whatever_the_order():
    bank, labels = torch.ones(8, 2), torch.tensor([3, 1, 2, 1, 3, 3, 2, 0])
    for order in (slice(None), torch.arange(7, -1, -1)):
        predicted, neighbours = knn_vote(torch.zeros(1, 2), bank[order], labels[order], k=3)
        assert (predicted.tolist(), neighbours.tolist()) == ([1], [[0, 1, 1]])


@pytest.mark.parametrize('change', [dict(k=0), dict(bank=torch.randn(60, 3)), dict(bank_labels=torch.zeros(3).long())])
def test_what_does_not_fit_is_refused(change):
    features, bank, labels = data()
    with pytest.raises(ValueError, match=r'kNN: (k|features)'):
        knn_vote(**(dict(features=features, bank=bank, bank_labels=labels) | change))
