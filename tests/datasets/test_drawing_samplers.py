"""Samplers that leave images out or repeat them: counts, ranks, resuming, views of copies, bad arguments."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unmix.datasets import (
    ArrayDataset,
    ClassBalancedSampler,
    FirstImages,
    RepeatedSampler,
    SampleKey,
    WeightedSampler,
    collate,
)
from unmix.datasets.samplers import COPY, KeySampler
from unmix.datasets.transforms import BatchMultiView, MultiView
from unmix.registry import DATA_SAMPLERS

N = 30
LABELS = [0] * 20 + [1] * 7 + [3] * 3  # class 2 has no image
WEIGHTS = np.random.default_rng(0).uniform(0, 3, N) * (np.arange(N) % 5 > 0)
KINDS: dict[str, dict[str, Any]] = {
    'SubsetSampler': dict(indices=[5, 3, 29, 8, 14, 0, 7]),
    'RepeatedSampler': dict(num_repeats=3),
    'WeightedSampler': dict(weights=WEIGHTS),
    'ClassBalancedSampler': {},
}


def data(size: int = N) -> ArrayDataset:
    return ArrayDataset(torch.zeros(size, 1, 4, 4), (LABELS * 4)[:size])


def build(name: str, seed: int = 3, **changes: Any) -> KeySampler:
    return DATA_SAMPLERS.build(dict(type=name, dataset=data(), seed=seed) | KINDS[name] | changes)


def on_rank(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int) -> None:
    monkeypatch.setattr('unmix.datasets.samplers.keys.get_dist_info', lambda: (rank, world_size))


def epoch(sampler: KeySampler, number: int) -> list[SampleKey]:
    sampler.set_epoch(number)
    return list(sampler)


@pytest.mark.parametrize('name', KINDS)
@pytest.mark.parametrize('world_size', [1, 2, 4])
def test_an_epoch_is_a_function_of_seed_and_epoch_and_is_divided_among_ranks(
    name: str, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = []
    for rank in range(world_size):
        on_rank(monkeypatch, rank, world_size)
        ranks.append([epoch(build(name), number) for number in range(3)])
        sampler = build(name)
        assert [epoch(sampler, number) for number in (2, 0, 1)] == [ranks[-1][number] for number in (2, 0, 1)]
        whole = epoch(sampler, 1)
        sampler.set_start(4 // world_size)
        assert list(sampler) == whole[4 // world_size :]  # resumed in mid-epoch, copies included
        assert len(sampler) == len(whole)
        assert epoch(build(name, seed=4), 1) != whole
    assert len({len(own[0]) for own in ranks}) == 1
    for number in range(3):
        keys = [key for own in ranks for key in own[number]]
        assert len(set(keys)) == len(keys) or name == 'SubsetSampler'  # 7 images on 2 or 4 ranks: the first one again
        assert {(key.epoch, key.seed % COPY) for key in keys} == {(number, 3)}
    assert ranks[0][0] != ranks[0][1]


def test_a_subset_is_its_images_once(tmp_path: Path) -> None:
    wanted = KINDS['SubsetSampler']['indices']
    for number in range(3):
        assert sorted(key.index for key in epoch(build('SubsetSampler'), number)) == sorted(wanted)
    assert [key.index for key in build('SubsetSampler', shuffle=False)] == wanted
    np.save(tmp_path / 'a.npy', np.array(wanted))
    (tmp_path / 'a.txt').write_text('\n'.join(map(str, wanted)))
    for file in ('a.npy', 'a.txt'):
        assert list(build('SubsetSampler', indices=tmp_path / file)) == list(build('SubsetSampler'))


def test_repeats_follow_each_other_and_go_to_different_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        keys = epoch(build('RepeatedSampler'), number)
        groups = [keys[start : start + 3] for start in range(0, N, 3)]
        assert all(len({key.index for key in group}) == 1 for group in groups)
        assert all([key.seed for key in group] == [3, 3 + COPY, 3 + 2 * COPY] for group in groups)
        assert len({group[0].index for group in groups}) == N // 3
        shares = []
        for rank in range(3):
            on_rank(monkeypatch, rank, 3)
            shares.append(epoch(build('RepeatedSampler'), number))
        on_rank(monkeypatch, 0, 1)
        assert [key for group in zip(*shares, strict=True) for key in group] == keys
    assert Counter(key.index for key in build('RepeatedSampler', num_samples=90)) == dict.fromkeys(range(N), 3)


def test_weights_decide_how_often_an_image_comes() -> None:
    expected = N * WEIGHTS / WEIGHTS.sum()
    total = np.zeros(N)
    for number in range(200):
        counts = np.bincount([key.index for key in epoch(build('WeightedSampler'), number)], minlength=N)
        assert counts.sum() == N
        assert (np.floor(expected) <= counts).all()
        assert (counts <= np.ceil(expected)).all()  # so at most once where the share is at most one image
        total += counts
    # Each epoch adds a 0 or 1 with the fraction as probability: variance at most 1/4, five standard errors.
    np.testing.assert_allclose(total / 200, expected, rtol=0, atol=5 * 0.5 / 200**0.5)
    equal = build('WeightedSampler', weights=[0.1] * N)
    assert sorted(key.index for key in epoch(equal, 5)) == list(range(N))
    few = build('WeightedSampler', num_samples=5)
    assert max(Counter(key.index for key in few).values()) == 1


def test_classes_come_equally_often_and_their_images_too() -> None:
    for number in range(20):
        counts = np.bincount([key.index for key in epoch(build('ClassBalancedSampler'), number)], minlength=N)
        of_class = [counts[np.array(LABELS) == label] for label in (0, 1, 3)]
        assert [part.sum() for part in of_class] == [10, 10, 10]
        assert all(part.max() - part.min() <= 1 for part in of_class)
    assert of_class[0].max() == 1
    smallest = build('ClassBalancedSampler', num_samples=9)
    counts = Counter(LABELS[key.index] for key in smallest)
    assert counts == {0: 3, 1: 3, 3: 3}
    assert max(Counter(key.index for key in smallest).values()) == 1
    first = ClassBalancedSampler(FirstImages(data(), 25), seed=0)
    assert abs(Counter(LABELS[key.index] for key in first)[0] - 12.5) == 0.5


@pytest.mark.parametrize(
    'pipeline',
    [
        MultiView([dict(type='RandomResizedCrop', size=8)]),
        MultiView([dict(type='RandomRotation', degrees=90)]),
        BatchMultiView([dict(type='BatchAffine')]),
    ],
    ids=['recipe', 'named', 'batch'],
)
def test_copies_have_views_of_their_own_the_same_in_every_batch(pipeline: Any) -> None:
    images = torch.randint(256, (2, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    dataset = ArrayDataset(images, pipeline=pipeline)
    keys = [key for key in RepeatedSampler(dataset, 2, 4, seed=1) if key.index == 0]
    assert len(keys) == 2
    batch = dataset.__getitems__([*keys, SampleKey(1, 0, 1)])
    views = collate(batch)['inputs']
    assert not torch.equal(views[0][0], views[0][1])
    for row, key in enumerate([*keys, SampleKey(1, 0, 1)]):
        alone = dataset[key]['inputs']
        assert all(torch.equal(view[row], own) for view, own in zip(views, alone, strict=True))


BAD = [
    ('SubsetSampler', dict(indices=[]), 'sampler.indices'),
    ('SubsetSampler', dict(indices=[0, 30]), 'sampler.indices: 2 numbers from 0 to 30; expected integers from 0 to 29'),
    ('SubsetSampler', dict(indices=[-1, 2]), 'from -1 to 2'),
    ('SubsetSampler', dict(indices=[0.5]), 'expected integers'),
    ('SubsetSampler', dict(indices=[4, 1, 4]), r'sampler.indices names some images twice: \[4\]'),
    ('SubsetSampler', dict(indices='lost.npy'), 'sampler.indices: there is no file lost.npy'),
    ('RepeatedSampler', dict(num_repeats=0), 'sampler.num_repeats is 0'),
    ('RepeatedSampler', dict(num_repeats=2, num_samples=61), 'sampler.num_samples 61'),
    ('RepeatedSampler', dict(num_samples=0), 'sampler.num_samples is 0'),
    ('WeightedSampler', dict(weights=[1.0] * 29), 'sampler.weights: 29 numbers from 1 to 1; expected 30'),
    ('WeightedSampler', dict(weights=[0.0] * 30), 'sampler.weights: .*not all 0'),
    ('WeightedSampler', dict(weights=[1.0] * 29 + [-0.1]), 'sampler.weights: 30 numbers from -0.1 to 1'),
    ('WeightedSampler', dict(weights=[1.0] * 29 + [float('nan')]), 'sampler.weights'),
    ('WeightedSampler', dict(weights=[1.0] * 29 + [float('inf')]), 'sampler.weights'),
    ('WeightedSampler', dict(weights=[[1.0]] * 30), r'sampler.weights: list holds values .* shape \(30, 1\)'),
    ('WeightedSampler', dict(weights=['a'] * 30), 'sampler.weights: list holds values of type'),
    ('WeightedSampler', dict(num_samples=-3), 'sampler.num_samples is -3'),
    ('ClassBalancedSampler', dict(dataset=range(30)), 'ClassBalancedSampler, but the data set has no labels'),
]


@pytest.mark.parametrize(('name', 'changes', 'message'), BAD)
def test_bad_arguments_are_refused_by_key(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build(name, **changes)


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    dataset = data()
    dataset.labels = torch.tensor(LABELS[:-1])
    with pytest.raises(ValueError, match='30 images and 29 labels from 0 to 3'):
        ClassBalancedSampler(dataset, seed=0)
    dataset.labels = torch.tensor([-1, *LABELS[1:]])
    with pytest.raises(ValueError, match='30 labels from -1 to 3; expected one from 0'):
        ClassBalancedSampler(dataset, seed=0)
    (tmp_path / 'bad.txt').write_text('1\nx\n')
    with pytest.raises(ValueError, match=r'sampler.weights: .*bad.txt holds no list of numbers'):
        WeightedSampler(data(), tmp_path / 'bad.txt', seed=0)
