"""``num_batch_per_epoch``, and streams of samples as training data."""

import itertools
import multiprocessing
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_toy import ToyData, toy_runner
from mmengine.dist import get_rank, get_world_size
from mmengine.registry import DATASETS
from test_train_loop import assert_same, interrupt, state
from torch.utils.data import IterableDataset, get_worker_info

from unmix.config.load import complete_loader
from unmix.datasets import FirstImages
from unmix.engine.loader import build_dataloader, epoch_of_stream
from unmix.testing.ranks import run_ranks

FIRST = dict(train_dataloader__num_batch_per_epoch=4)


@DATASETS.register_module(force=True)
class ToyStream(IterableDataset):
    """24 vectors, as in ToyData; ``share``: each worker and process gives its own; ``length``: what it says it has."""

    def __init__(self, share: bool = False, length: int = 24, index: bool = True) -> None:
        self.data, self.share, self.length, self.index = ToyData(), share, length, index

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Any:
        worker = get_worker_info()
        part, parts = (0, 1) if worker is None else (worker.id, worker.num_workers)
        part, parts = part * get_world_size() + get_rank(), parts * get_world_size()
        for number in range(part if self.share else 0, 24, parts if self.share else 1):
            item = self.data[number]
            yield item if self.index else dict(inputs=item['inputs'])


def numbers(batches: Iterable[dict[str, Any]]) -> list[int]:
    return [number for batch in batches for number in batch['index'].tolist()]


def stream(**kwargs: Any) -> dict[str, Any]:
    workers = kwargs.pop('num_workers', 0)
    data = dict(type='mmengine.ToyStream', **kwargs)
    return dict(train_dataloader__dataset=data, train_dataloader__sampler=None, train_dataloader__num_workers=workers)


@pytest.mark.slow
@pytest.mark.parametrize('at', [5, 7, 10])
@pytest.mark.parametrize('changes', [FIRST, stream()], ids=['num_batch_per_epoch', 'stream'])
def test_interrupted_run_equals_uninterrupted(tmp_path: Path, changes: dict[str, Any], at: int) -> None:
    whole = toy_runner(tmp_path / 'whole', **changes)
    whole.train()
    first = interrupt(tmp_path / 'parts', at, **changes)
    second = toy_runner(tmp_path / 'parts', resume=True, **changes)
    second.train()
    assert_same(state(second), state(whole))
    assert first.model.seen + second.model.seen == whole.model.seen


def test_num_batch_per_epoch_is_the_length_of_epochs_and_schedules(tmp_path: Path) -> None:
    """As in MMEngine: the first 4 batches of images, in an order of each epoch."""
    runner = toy_runner(tmp_path, **FIRST)
    runner.train()
    assert (runner.iter, runner.max_iters, runner.epoch) == (12, 12, 3)
    assert runner.param_schedulers[0].end == 12
    for epoch in range(3):
        seen = list(itertools.chain(*runner.model.seen[4 * epoch : 4 * epoch + 4]))
        assert sorted(seen) == list(range(16)) != seen


@pytest.mark.parametrize('number', [0, -1, 7])
def test_num_batch_per_epoch_of_other_than_the_data(tmp_path: Path, number: int) -> None:
    with pytest.raises(ValueError, match=r'num_batch_per_epoch asks for .*; the data set has 24'):
        toy_runner(tmp_path, train_dataloader__num_batch_per_epoch=number).train()
    with pytest.raises(ValueError, match=r'num_batch_per_epoch is for data sets .* ToyStream is an IterableDataset'):
        toy_runner(tmp_path, train_dataloader__num_batch_per_epoch=2, **stream()).train()


@pytest.mark.slow
def test_first_images_reach_workers_that_are_spawned() -> None:
    cfg = dict(
        batch_size=2,
        num_workers=1,
        dataset=[dict(inputs=torch.tensor(n)) for n in range(9)],
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
        num_batch_per_epoch=2,
        multiprocessing_context=multiprocessing.get_context('spawn'),
    )
    loader = build_dataloader(cfg)
    assert isinstance(loader.dataset, FirstImages)
    assert [batch['inputs'].tolist() for batch in loader] == [[0, 1], [2, 3]]


@pytest.mark.slow
@pytest.mark.parametrize('length', [24, 16])
def test_an_epoch_of_a_stream_is_its_length(tmp_path: Path, length: int) -> None:
    runner = toy_runner(tmp_path, **stream(length=length))
    runner.train()
    epoch = [list(range(start, start + 4)) for start in range(0, length, 4)]
    assert runner.model.seen == 3 * epoch
    assert runner.iter == runner.max_iters == 3 * length // 4


@pytest.mark.parametrize(('changes', 'message'), [
    (stream(length=28), r'has a length of 7 batches, but has ended after 6'),
    (dict(stream(), train_dataloader__sampler=dict(type='EpochSampler')), r'Set train_dataloader\.sampler=None'),
])  # fmt: skip
def test_streams_that_cannot_be_right(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        toy_runner(tmp_path, **changes).train()


def test_a_stream_needs_a_length() -> None:
    class Endless(IterableDataset):
        def __iter__(self) -> Any:
            yield dict(inputs=torch.zeros(1))

    with pytest.raises(ValueError, match=r'Endless is an IterableDataset without a length, .*Define __len__'):
        build_dataloader(dict(batch_size=1, dataset=dict(type=Endless), sampler=None))


@pytest.mark.parametrize(('kwargs', 'message'), [
    (dict(share=True), None),
    (dict(share=False), r'gives the same samples to several of its 2 workers .*\.num_workers=0'),
    (dict(share=True, index=False), r"gives no 'index' of its samples, so with 2 workers"),
])  # fmt: skip
def test_workers_must_divide_a_stream(kwargs: dict[str, Any], message: str | None) -> None:
    cfg = dict(batch_size=4, num_workers=2, dataset=dict(type='mmengine.ToyStream', **kwargs), sampler=None)
    loader = build_dataloader(cfg | dict(collate_fn=dict(type='default_collate')))
    if message is None:
        batches = list(epoch_of_stream(iter(loader), loader, len(loader)))
        assert sorted(numbers(batches)) == list(range(24))
    else:
        with pytest.raises(ValueError, match=message):
            list(epoch_of_stream(iter(loader), loader, len(loader)))


def _rank(rank: int, share: bool) -> None:
    cfg = dict(batch_size=4, dataset=dict(type='mmengine.ToyStream', share=share, length=12), sampler=None)
    loader = build_dataloader(cfg | dict(collate_fn=dict(type='default_collate')))
    batches = epoch_of_stream(iter(loader), loader, len(loader))
    if share:
        assert numbers(batches) == list(range(rank, 24, 2))
    else:
        with pytest.raises(ValueError, match=r'the same samples to several of its 0 workers and 2 processes'):
            next(batches)


@pytest.mark.ranks
@pytest.mark.parametrize('share', [True, False])
def test_processes_must_divide_a_stream(tmp_path: Path, share: bool) -> None:
    run_ranks(_rank, 2, tmp_path, share)


def test_a_config_with_a_stream_needs_no_sampler() -> None:
    loader = dict(dataset=dict(type='mmengine.ToyStream'))
    complete_loader('train_dataloader', loader)
    assert loader['sampler'] is None
    loader = dict(dataset=dict(type='mmengine.ToyData'), sampler=None)
    complete_loader('train_dataloader', loader)
    assert loader['sampler'] == dict(type='EpochSampler', shuffle=True)


@pytest.mark.parametrize(('cuda', 'given', 'pinned'), [
    (True, {}, True), (True, dict(pin_memory=True), True), (True, dict(pin_memory=False), False),
    (False, {}, False), (False, dict(pin_memory=True), False), (False, dict(pin_memory=False), False),
])  # fmt: skip
def test_batches_are_pinned_where_there_is_cuda(
    cuda: bool, given: dict[str, bool], pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('unmix.engine.loader.torch', SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: cuda)))
    cfg = dict(dataset=dict(type='mmengine.ToyData'), sampler=dict(type='DefaultSampler'), batch_size=4, **given)
    assert build_dataloader(cfg).pin_memory == pinned


def test_a_loader_that_pins_is_silent_without_an_accelerator(recwarn: pytest.WarningsRecorder) -> None:
    loader = build_dataloader(
        dict(
            dataset=dict(type='mmengine.ToyData'),
            sampler=dict(type='DefaultSampler'),
            collate_fn=dict(type='default_collate'),
            batch_size=4,
            pin_memory=True,
        )
    )
    next(iter(loader))
    assert [str(warning.message) for warning in recwarn if 'pin' in str(warning.message)] == []
