"""Memory of an evaluation: beside the bank, nothing grows with it but what a label or an index takes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset

from unmix.evaluation import KNN, EuclideanKNN, Features, LinearProbe, LinearTraining, accuracy, extraction, knn
from unmix.evaluation.extraction import collect_features

WIDTH = 128  # 512 bytes in float32
K = 5


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that blocks are small beside these small banks, as they are beside that of ImageNet."""
    monkeypatch.setattr(knn, '_BLOCK', 2**12)
    monkeypatch.setattr(knn, '_ROWS', 16)
    monkeypatch.setattr(knn, '_PANEL_ROWS', 32)
    monkeypatch.setattr(knn, '_LISTS', 2**10)
    monkeypatch.setattr(accuracy, 'CHUNK', 2**12)
    monkeypatch.setattr('unmix.evaluation.linear_probe.CHUNK', 2**12)
    monkeypatch.setattr(extraction, '_COLUMNS', 2**12)


def peak(function: Callable[[], Any]) -> int:
    """Return how many bytes PyTorch holds on the host at most, beyond those at the start, temporary ones included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = function()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == '[memory]']
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    assert most > 0
    del kept
    return most


def features(size: int, collapsed: bool = False) -> Features:
    rng = torch.Generator().manual_seed(0)
    rows = torch.ones(size, WIDTH) if collapsed else torch.randn(size, WIDTH, generator=rng)
    return Features(rows, torch.arange(size) % 10)


METRICS = {
    'knn': KNN(k=(1, K), temperature=(0.1, 0.5)),
    'euclidean': EuclideanKNN(k=K),
    'linear': LinearProbe(max_iter=3),
    'few': LinearProbe(labels_per_class=2, draws=2, max_iter=3),
    'training': LinearTraining(lr=(0.1, 0.01), epochs=1, batch_size=40),
}


@pytest.mark.slow
@pytest.mark.parametrize('collapsed', [False, True])
@pytest.mark.parametrize('name', METRICS)
def test_metrics_copy_neither_bank_nor_queries(name: str, collapsed: bool) -> None:
    def bytes_of(rows: int, queries: int) -> int:
        bank, test = features(rows, collapsed), features(queries, collapsed)
        return peak(lambda: METRICS[name](bank, test))

    small = bytes_of(400, 250)
    of_a_row = (bytes_of(1200, 250) - small) / 800
    of_a_query = (bytes_of(400, 650) - small) / 400
    assert of_a_row <= 8 * 8  # row, label, permutation and the like; a copy has 512
    assert of_a_query <= K * (4 + 8) + 6 * 8  # and the lists of its neighbours


class Images(Dataset):
    """Images that are their features, in falling order."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, number: int) -> dict[str, Any]:
        index = self.size - 1 - number
        return dict(inputs=torch.full((WIDTH,), float(index)), index=index, label=index % 3)


def test_extraction_keeps_each_number_once() -> None:
    def bytes_of(size: int) -> int:
        loader = DataLoader(Images(size), batch_size=10)
        return peak(lambda: collect_features(loader, {'': lambda batch: batch['inputs']}))

    of_a_row = (bytes_of(300) - bytes_of(100)) / 200
    assert 4 * WIDTH <= of_a_row <= 4 * WIDTH + 12 * 8  # index and label, gathered and put in order


def test_rows_are_put_in_order_in_their_own_memory() -> None:
    loader = DataLoader(Images(37), batch_size=10)
    found = collect_features(loader, {'': lambda batch: batch['inputs']})
    assert found is not None
    assert torch.equal(found[''].features, torch.arange(37.0)[:, None].expand(-1, WIDTH))
    assert found[''].features.untyped_storage().nbytes() == 37 * WIDTH * 4
    assert torch.equal(F.one_hot(found[''].labels), F.one_hot(torch.arange(37) % 3))
