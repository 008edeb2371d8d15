"""Batches that are copied ahead: the order of streams, and runs that lose or repeat none.

There is no device: streams only write down what they are asked for. ``tests/nullgpu`` runs the real ones.
"""

import gc
import itertools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toy import ToyData, toy_runner
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import DATASETS
from test_train_loop import assert_same, interrupt, state

from unmix.engine.loops.train_loop import TrainLoop
from unmix.engine.prefetch import Prefetcher


class Streams:
    """Two streams, 'compute' and the prefetcher's; the list has what was queued on each, in order."""

    def __init__(self) -> None:
        self.queued: list[str] = []
        self.current = 'compute'
        self._events = itertools.count()

    def stream(self, name: str) -> Any:
        outer = self

        class Stream:
            def wait_stream(self, other: Any) -> None:
                outer.queued.append(f'{name} waits for {other.name}')

            def wait_event(self, event: str) -> None:
                outer.queued.append(f'{name} waits for {event}')

            def record_event(self) -> str:
                event = f'copy {next(outer._events)}'
                outer.queued.append(f'{name} records {event}')
                return event

        stream = Stream()
        stream.name = name  # type: ignore[attr-defined]
        return stream

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream.name
        yield
        self.current = before


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    fake = Streams()
    monkeypatch.setattr(torch.cuda, 'Stream', lambda device: fake.stream('side'))
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: fake.stream('compute'))
    monkeypatch.setattr(torch.cuda, 'stream', fake.on)
    monkeypatch.setattr(TrainLoop, '_prefetches', lambda self: self._prefetch)
    return fake


class Preprocessor(BaseDataPreprocessor):
    """Copies a number to 10 times that number."""

    def __init__(self, streams: Streams) -> None:
        super().__init__()
        self.streams = streams

    def cast_data(self, data: Any) -> Any:
        self.streams.queued.append(f'{self.streams.current} copies {data}')
        return 10 * data


def test_the_order_of_streams(streams: Streams) -> None:
    prefetcher = Prefetcher(iter([1, 2]), Preprocessor(streams))
    for expected in (1, 2):
        assert next(prefetcher) == expected
        assert prefetcher.on_device() == 10 * expected
        streams.queued.append(f'compute takes step {expected}')
    with pytest.raises(StopIteration):
        next(prefetcher)
    assert streams.queued == [
        'side waits for compute',
        'side copies 1',
        'side records copy 0',
        'compute waits for copy 0',
        'side waits for compute',
        'side copies 2',
        'side records copy 1',
        'compute takes step 1',
        'compute waits for copy 1',
        'compute takes step 2',
    ]


def test_an_error_comes_where_its_batch_would(streams: Streams) -> None:
    def batches() -> Iterator[int]:
        yield 1
        raise OSError('gone')

    prefetcher = Prefetcher(batches(), Preprocessor(streams))
    assert next(prefetcher) == 1
    for _ in range(2):
        with pytest.raises(OSError, match='gone'):
            next(prefetcher)
    with pytest.raises(StopIteration):
        next(Prefetcher(iter([]), Preprocessor(streams)))


def test_at_the_end_nothing_is_left_to_collect(streams: Streams) -> None:
    """Its events would otherwise be destroyed by the next collection, be it in a data worker."""

    class Batch:
        pass

    gc.collect()
    gc.disable()
    try:
        batch = Batch()
        left = weakref.ref(batch)
        preprocessor = Preprocessor(streams)
        preprocessor.cast_data = lambda data: data  # type: ignore[method-assign]
        prefetcher = Prefetcher(iter([batch]), preprocessor)
        del batch
        while next(prefetcher, None) is not None:
            pass
        assert left() is None  # also while the prefetcher is there
        prefetcher_left = weakref.ref(prefetcher)
        del prefetcher
        assert prefetcher_left() is None
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize('at', [0, 11])
@pytest.mark.parametrize('changes', [
    {}, dict(optim_wrapper__accumulative_counts=4), dict(train_dataloader__sampler__type='DefaultSampler'),
], ids=['plain', 'accumulation', 'sampler without a start'])  # fmt: skip
def test_an_interrupted_run_equals_one_that_copies_nothing_ahead(
    tmp_path: Path, at: int, changes: dict[str, Any], streams: Streams
) -> None:
    whole = toy_runner(tmp_path / 'whole', train_cfg__prefetch=False, **changes)
    whole.train()
    assert streams.queued == []
    first = interrupt(tmp_path / 'parts', at, **changes)
    second = toy_runner(tmp_path / 'parts', resume=True, **changes)
    second.train()
    assert len([line for line in streams.queued if line.startswith('side records')]) >= 18
    assert_same(state(second), state(whole))
    assert first.model.seen + second.model.seen == whole.model.seen


@DATASETS.register_module(force=True)
class ToyDataThatEnds(ToyData):
    """The file server is gone once that many vectors are loaded; 1000 are never."""

    def __init__(self, lasts: int = 1000) -> None:
        super().__init__()
        self.lasts = lasts

    def __getitem__(self, key: Any) -> dict[str, Any]:
        if len(self.loaded) == self.lasts:
            raise OSError('the server is gone')
        return super().__getitem__(key)


@pytest.mark.slow
def test_data_that_cannot_be_read_end_the_run_after_the_last_batch_that_can(tmp_path: Path, streams: Streams) -> None:
    whole = toy_runner(tmp_path / 'whole', train_cfg__prefetch=False)
    whole.train()
    data = dict(type='mmengine.ToyDataThatEnds', lasts=4 * 9)
    first = toy_runner(tmp_path / 'parts', train_dataloader__dataset=data)
    with pytest.raises(OSError, match='the server is gone'):
        first.train()
    assert [path.name for path in (tmp_path / 'parts').glob('*.pth')] == ['interrupted_iter_9.pth']
    second = toy_runner(
        tmp_path / 'parts', resume=True, train_dataloader__dataset=dict(type='mmengine.ToyDataThatEnds')
    )
    second.train()
    assert_same(state(second), state(whole))
    assert first.model.seen + second.model.seen == whole.model.seen


@pytest.mark.slow
def test_nothing_is_copied_ahead_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('unmix.engine.loops.train_loop.Prefetcher', None)  # a call would fail
    runner = toy_runner(tmp_path)
    runner.train()
    assert runner.train_loop._prefetcher is None
