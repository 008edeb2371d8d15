"""The sampler, against MMEngine's."""

import pytest
from mmengine.dataset import DefaultSampler

from unmix.datasets import EpochSampler, SampleKey
from unmix.datasets.samplers import keys

SHARES = [(10, 1, True), (10, 3, True), (10, 3, False), (11, 4, True), (11, 4, False), (2, 5, True), (1, 1, False)]


def on_rank(monkeypatch: pytest.MonkeyPatch, rank: int, world_size: int) -> None:
    for module in (keys, __import__('mmengine.dataset.sampler', fromlist=['sampler'])):
        monkeypatch.setattr(module, 'get_dist_info', lambda: (rank, world_size))


@pytest.mark.parametrize(('size', 'world_size', 'round_up'), SHARES)
def test_shares_are_those_of_the_default_sampler(
    monkeypatch: pytest.MonkeyPatch, size: int, world_size: int, round_up: bool
) -> None:
    shuffled = []
    for rank in range(world_size):
        on_rank(monkeypatch, rank, world_size)
        default = DefaultSampler(range(size), shuffle=False, seed=0, round_up=round_up)
        plain = EpochSampler(range(size), shuffle=False, seed=0, round_up=round_up)
        assert [key.index for key in plain] == list(default)
        assert len(plain) == len(default) == len(list(plain))
        shuffled.append([key.index for key in EpochSampler(range(size), seed=4, round_up=round_up)])
    # With shuffling, the same shares of one permutation.
    on_rank(monkeypatch, 0, 1)
    order = [key.index for key in EpochSampler(range(size), seed=4)]
    for rank in range(world_size):
        on_rank(monkeypatch, rank, world_size)
        default = DefaultSampler(range(size), shuffle=False, seed=0, round_up=round_up)
        assert shuffled[rank] == [order[i] for i in default]


def test_an_epoch_is_a_permutation_and_a_function_of_seed_and_epoch() -> None:
    orders = {}
    for seed in (0, 1):
        for epoch in (0, 1, 2):
            sampler = EpochSampler(range(50), seed=seed)
            sampler.set_epoch(epoch)
            keys = list(sampler)
            assert all(key[1:] == (epoch, seed) for key in keys)
            orders[seed, epoch] = tuple(key.index for key in keys)
            assert sorted(orders[seed, epoch]) == list(range(50))
            assert list(sampler) == keys
    assert len(set(orders.values())) == 6


def test_set_start_is_the_tail_of_this_epoch_only() -> None:
    sampler = EpochSampler(range(20), seed=3)
    sampler.set_epoch(1)
    whole = list(sampler)
    sampler.set_start(8)
    assert list(sampler) == whole[8:]
    assert len(sampler) == 20
    sampler.set_start(20)
    assert list(sampler) == []
    sampler.set_epoch(2)
    assert sorted(key.index for key in sampler) == list(range(20))
    with pytest.raises(ValueError, match='20 images on this process, so it cannot be resumed after 21'):
        sampler.set_start(21)


def test_a_plain_index_is_a_key() -> None:
    assert SampleKey.of(3) == SampleKey(3, 0, 0)
    key = SampleKey(3, 1, 2)
    assert SampleKey.of(key) is key
