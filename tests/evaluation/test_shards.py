"""Evaluation on several ranks: each has its rows of the bank, and finds what one process with all rows finds."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.dist import all_gather
from torch import Tensor
from torch.nn import functional as F

from unmix.engine.feature_pictures import look
from unmix.evaluation import KNN, EuclideanKNN, Features, LinearProbe, LinearTraining, Shard, knn, shard
from unmix.evaluation.extraction import collect_features
from unmix.evaluation.feature_cache import FeatureCache
from unmix.evaluation.linear_probe import _fit, _statistics
from unmix.testing.ranks import run_ranks
from unmix.testing.tolerances import assert_same, rounding

pytestmark = pytest.mark.ranks


def share(features: Features, owner: np.ndarray, rank: int) -> Shard:
    """Return the shard of a rank, by the rank (N,) that has each row."""
    rows = torch.from_numpy(np.flatnonzero(owner == rank))
    return Shard(features.features[rows], rows, features.labels, spread=True)


def owners(size: int, world_size: int) -> Iterator[np.ndarray]:
    """Yield ways to share rows: in turn, all on the last rank, contiguous and uneven with an empty one, at random."""
    yield np.arange(size) % world_size
    yield np.full(size, world_size - 1)
    yield np.where(np.arange(size) < size // 5, 0, world_size - 1)
    yield np.random.default_rng(0).integers(0, world_size, size)


def sets() -> Iterator[tuple[str, Features, Features]]:
    """Yield banks and test sets."""
    rng = np.random.default_rng(3)
    for name, size, width, dtype in (
        ('plain', 300, 5, torch.float32),
        ('wide', 90, 700, torch.float32),
        ('double', 130, 64, torch.float64),
        ('few', 3, 4, torch.float32),
    ):
        images = [torch.tensor(rng.normal(size=(n, width)), dtype=dtype) for n in (size, 40)]
        labels = [torch.tensor(rng.integers(0, 7, n)) for n in (size, 40)]
        yield name, Features(images[0], labels[0]), Features(images[1], labels[1])
    grid = [torch.tensor(rng.integers(0, 2, (n, 4)) - 0.5) for n in (200, 40)]  # most similarities are equal
    yield 'grid', *(Features(x, torch.tensor(rng.integers(0, 9, len(x)))) for x in grid)
    # Each image four times under several labels, on other ranks and in other blocks: they must be equally near.
    images = torch.tensor(rng.normal(size=(40, 700)), dtype=torch.float32)
    bank = Features(images.repeat(4, 1), torch.tensor(rng.integers(0, 9, 160)))
    yield 'repeated', bank, Features(images, torch.tensor(rng.integers(0, 9, 40)))
    yield 'collapsed', Features(torch.ones(60, 8), torch.arange(60) % 9), Features(torch.ones(5, 8), torch.arange(5))


def neighbours(rank: int, world_size: int) -> None:
    for rows, panel in ((knn._ROWS, knn._PANEL_ROWS), (16, 40), (16, 16)):
        knn._ROWS, knn._PANEL_ROWS = rows, panel
        for name, bank, test in sets():
            metrics = [KNN((1, 5, 20, 1000), (0.07, 0.5)), KNN(chunk_size=7), EuclideanKNN((1, 5))]
            whole = [metric(bank, test) for metric in metrics]
            for euclidean in (False, True):
                lists = [
                    knn._search(test.features, given, 20, None, None, euclidean, not euclidean)
                    for given in (
                        Shard.of(bank),
                        *(share(bank, owner, rank) for owner in owners(len(bank.labels), world_size)),
                    )
                ]
                for got in lists[1:]:
                    for mine, expected in zip(got, lists[0], strict=True):
                        assert torch.equal(mine, expected), (name, euclidean, rows)
            for owner in owners(len(bank.labels), world_size):
                assert [metric(share(bank, owner, rank), test) for metric in metrics] == whole, (name, rows)


@pytest.mark.parametrize('world_size', [2, 3])
def test_neighbours_are_those_of_one_process_bit_for_bit(tmp_path: Path, world_size: int) -> None:
    run_ranks(neighbours, world_size, tmp_path, world_size)


def classes(size: int, seed: int) -> Features:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(size) % 7
    centers = torch.randn(7, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Features(torch.randn(size, 6, generator=rng, dtype=torch.float64) + centers[labels], labels)


def gradient(fit: Any, bank: Features, l2: float) -> Tensor:
    """Of the objective of softmax regression, in closed form, weights and bias in one row."""
    inputs = (bank.features - fit.mean) / fit.std
    error = (inputs @ fit.weight + fit.bias).softmax(1) - torch.eye(7, dtype=torch.float64)[bank.labels]
    return torch.cat([(inputs.T @ error / len(inputs) + 2 * l2 * fit.weight).flatten(), error.mean(0)])


def linear(rank: int, world_size: int) -> None:
    bank, test = classes(151, 1), classes(60, 2)
    cpu = torch.device('cpu')
    largest = bank.features.abs().max().item()
    whole = _statistics(Shard.of(bank), cpu)
    l2, options = 1e-2, dict(max_iter=200, tolerance=1e-10)
    expected = _fit(Shard.of(bank), 7, l2, whole, solver='torch', **options)
    for owner in owners(151, world_size):
        own = share(bank, owner, rank)
        for got, wanted in zip(_statistics(own, cpu), whole, strict=True):
            # a sum of 151 numbers, of 151 squares: each is off by the rounding of its largest term
            assert_same(got, wanted, rounding(2 * 151, condition=max(1, largest) ** 2))
        for solver in ('torch', 'auto', 'sklearn'):
            fit = _fit(own, 7, l2, whole, solver=solver, **options)
            for part in fit[:2]:
                first, *others = all_gather(part.contiguous())
                assert all(torch.equal(first, other) for other in others)
            # The objective is l2-strongly convex in the weights: |W - W'|^2 <= |g - g'| |x - x'| / (2 l2).
            gradients = [gradient(found, bank, l2) for found in (fit, expected)]
            assert gradients[0].norm() < (1e-6 if solver == 'torch' else 1e-4)  # scikit-learn stops earlier
            apart = torch.cat([(fit.weight - expected.weight).flatten(), fit.bias - expected.bias]).norm()
            bound = (gradients[0] - gradients[1]).norm() * apart / (2 * l2)
            assert (fit.weight - expected.weight).square().sum() <= bound
    for probe in (
        LinearProbe(),
        LinearProbe(labels_per_class=3, draws=2),
        LinearProbe(labels_per_class=1, draws=2),  # few rows on each rank
        LinearProbe(C=1.0, standardize=False, solver='auto'),
    ):
        assert probe(own, test) == probe(bank, test)


@pytest.mark.parametrize('world_size', [2, 3])
def test_the_linear_probe_is_that_of_one_process(tmp_path: Path, world_size: int) -> None:
    run_ranks(linear, world_size, tmp_path, world_size)


def training(rank: int, world_size: int) -> None:
    bank, test = classes(75, 1), classes(61, 2)
    batch, epochs, lr = 20, 3, 0.1
    cfg = dict(epochs=epochs, batch_size=batch, optimizer=dict(type='SGD'), scheduler=dict(type='ConstantLR', factor=1))
    metric = LinearTraining(lr=(lr, lr / 10), **cfg)
    build = metric.layers

    def train(given: Any) -> tuple[list[Tensor], dict[str, float]]:
        layers = build(test.features, 7)
        metric.layers = lambda *_: layers
        return [p.detach() for p in layers.parameters()], metric(given, test)

    expected, results = train(bank)
    # A step enlarges an error by at most 1 + lr L, where L, half the largest |(x, 1)|^2, bounds the curvature.
    steps = epochs * math.ceil(75 / batch)
    curvature = (bank.features.square().sum(1).max().item() + 1) / 2
    largest = bank.features.abs().max().item()
    bound = rounding(steps * (batch + 6 + 7), condition=largest * (1 + lr * curvature) ** steps)
    for owner in owners(75, world_size):
        got, found = train(share(bank, owner, rank))
        assert found == results
        for mine, wanted in zip(got, expected, strict=True):
            assert_same(mine, wanted, bound)
            assert all(torch.equal(mine, other) for other in all_gather(mine.contiguous()))
    metric = LinearTraining(epochs=2, batch_size=20)  # htdt's, with Adam
    assert metric(share(bank, owner, rank), test) == metric(bank, test)


@pytest.mark.parametrize('world_size', [2, 3])
def test_a_linear_training_is_that_of_one_process(tmp_path: Path, world_size: int) -> None:
    run_ranks(training, world_size, tmp_path, world_size)


SIZE = 23
LABELS = torch.arange(SIZE) % 4
IMAGES = torch.randn(SIZE, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def batches(indices: list[int], size: int = 4, **change: Any) -> Iterator[dict[str, Any]]:
    for start in range(0, len(indices), size):
        index = torch.tensor(indices[start : start + size])
        yield dict(inputs=IMAGES[index], index=index, label=LABELS[index]) | change


ENCODERS = {'': lambda batch: batch['inputs'], 'half': lambda batch: batch['inputs'].half() * 2}


def shares(world_size: int) -> Iterator[list[list[int]]]:
    """Yield the images that each rank reads: padded by a sampler, shuffled, repeated, and on the last rank alone."""
    yield [
        [i % SIZE for i in range(rank, SIZE + world_size - SIZE % world_size, world_size)] for rank in range(world_size)
    ]
    order = np.random.default_rng(0).permutation(SIZE).tolist()
    yield [order[rank::world_size] + order[:3] for rank in range(world_size)]
    yield [[]] * (world_size - 1) + [order]
    yield [order] * world_size


def extraction(rank: int, world_size: int) -> None:
    shard.PIECE = 50  # two rows of the wide features at once
    for indices in shares(world_size):
        found = collect_features(batches(indices[rank]), ENCODERS)
        assert found is not None
        assert found[''].features.dtype == torch.float64
        assert found['half'].features.dtype == torch.float32
        for name, factor in (('', 1), ('half', 2)):
            own = found[name]
            expected = factor * IMAGES if name == '' else (IMAGES.half() * factor).float()
            assert torch.equal(own.features, expected[own.rows])  # in order
            assert torch.equal(own.labels, LABELS[own.rows])
            whole = own.whole()
            assert whole is not None
            assert torch.equal(whole.features, expected)
            assert torch.equal(whole.labels, LABELS)
            kept = own.whole(keep=rank == 1)
            assert (kept is None) == (rank != 1)
            again = Shard.deal(whole if rank == 0 else None)
            assert abs(len(again.rows) - SIZE / world_size) < 1
            assert torch.equal(again.features, expected[again.rows])
            (every,) = [
                torch.cat([x[x >= 0] for x in all_gather(F.pad(again.rows, (0, SIZE - len(again.rows)), value=-1))])
            ]
            assert sorted(every.tolist()) == list(range(SIZE))


@pytest.mark.parametrize('world_size', [2, 3])
def test_extraction_is_that_of_one_process(tmp_path: Path, world_size: int) -> None:
    run_ranks(extraction, world_size, tmp_path, world_size)


def refused(rank: int) -> None:
    """What only rank 1 sees, both report; nothing waits."""
    indices = list(range(rank, SIZE, 2))
    nan = {'': lambda batch: batch['inputs'] * (math.nan if rank else 1.0)}
    for change, encoders, text in (
        ({}, nan, 'Features of 11 images .* are NaN'),
        (dict(index=None) if rank else {}, ENCODERS, "delivers no 'index'"),
        (dict(label=-torch.ones(4).long()) if rank else {}, ENCODERS, 'labels reach from -1'),
    ):
        with pytest.raises(ValueError, match=text):
            collect_features(batches(indices, **change), encoders)
    with pytest.raises(ValueError, match='is empty'):
        collect_features([], ENCODERS)
    assert collect_features(batches(indices, label=None), ENCODERS) is None
    assert collect_features(batches(indices if rank else [], label=None), ENCODERS) is None


def test_both_ranks_report_what_one_finds(tmp_path: Path) -> None:
    run_ranks(refused, 2, tmp_path)


class Numbers:
    labels = LABELS

    def __len__(self) -> int:
        return SIZE


def cached(rank: int, folder: Path) -> None:
    indices = list(range(rank, SIZE, 2))
    names = {name: name for name in ENCODERS}
    for read in ([1], []):
        seen: list[int] = []

        def watched(seen: list[int] = seen) -> Iterator[dict[str, Any]]:
            seen.append(1)
            yield from batches(indices)

        found = FeatureCache(folder).collect(watched(), ENCODERS, names, 'data', Numbers())
        assert found is not None
        whole = found[''].whole()
        assert whole is not None
        assert torch.equal(whole.features, IMAGES)
        assert torch.equal(whole.labels, LABELS)
        assert seen == read
        assert found[''].spread


def test_ranks_share_the_files_of_one_process_and_give_theirs(tmp_path: Path) -> None:
    run_ranks(cached, 2, tmp_path, tmp_path / 'features')
    names = {name: name for name in ENCODERS}
    found = FeatureCache(tmp_path / 'features').collect([], ENCODERS, names, 'data', Numbers())
    assert found is not None
    assert torch.equal(found[''].features, IMAGES)


def seen_by(rank: int, world_size: int) -> None:
    features = torch.from_numpy(np.random.default_rng(5).normal(size=(60, 8))).float()
    features[30:50] = features[:20]  # equally near
    data, labels = (object(), object()), torch.arange(60) % 3
    bank, test = Features(features, labels), Features(features[5:35], labels[5:35])
    expected = look(Shard.of(test), Shard.of(bank), data)
    for of_bank in owners(60, world_size):
        for of_test in owners(30, world_size):
            found = look(share(test, of_test, rank), share(bank, of_bank, rank), data)
            assert (found.queries, found.near, found.searched) == (expected.queries, expected.near, 60)
            assert torch.equal(found.features, expected.features)


@pytest.mark.slow
def test_the_report_has_the_same_neighbours_on_several_ranks(tmp_path: Path) -> None:
    run_ranks(seen_by, 2, tmp_path, 2)
