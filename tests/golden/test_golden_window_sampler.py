"""Sequences of the released sliding-window sampler, and of the same with the modulus that was meant."""

import numpy as np
import pytest
from fixtures import Golden

from unmix.datasets import SlidingWindowSampler


class Orders:
    """Replays recorded shuffles, in the order of the calls: of the list when it is made, then before and in windows.

    The released code shuffles the list it has, so its n-th order is the n-th recorded shuffle of the one before.
    """

    def __init__(self, sampler: SlidingWindowSampler, shuffles: list[np.ndarray], reshuffled: np.ndarray) -> None:
        shuffles = list(shuffles)
        self.orders = [shuffles.pop(0)]
        self.windows = []
        for anew in reshuffled:
            if anew:
                self.orders.append(self.orders[-1][shuffles.pop(0)])
            self.windows.append(shuffles.pop(0))

    def __call__(self, purpose: str, number: int, size: int) -> np.ndarray:
        order = (self.orders if purpose == 'order' else self.windows)[number]
        assert len(order) == size
        return order


@pytest.mark.golden('c09_sliding_window_sampler*')
def test_windows(golden: Golden) -> None:
    for i, config in enumerate(golden.hp['configs']):
        for family in ('rel', 'fix'):
            for mode in (0, 1):
                check(golden, f'{family}_{i}_{mode}', config, family == 'rel', mode)


def check(golden: Golden, name: str, config: dict, released: bool, mode: int) -> None:
    sampler = SlidingWindowSampler(
        range(config['n']),
        config['window_size'],
        config['window_stride'],
        reshuffle='wrap' if config['shuffle_per_epoch'] else 'never',
        compat='released' if released else None,
        seed=0,
    )
    reshuffled = golden[f'{name}_reshuffled']
    if mode == 0:
        sampler.permutation = lambda purpose, number, size: np.arange(size)
    else:
        ends = golden[f'{name}_perm_len'].cumsum()[:-1]
        sampler.permutation = Orders(sampler, np.split(golden[f'{name}_perm_flat'], ends), reshuffled)
    for epoch, expected in enumerate(golden[f'{name}_seq']):
        sampler.set_epoch(epoch)
        assert [key.index for key in sampler] == expected.tolist(), (name, epoch)
        assert (epoch + 1) * sampler.stride % sampler.modulus == golden[f'{name}_start'][epoch]
        if config['shuffle_per_epoch']:
            anew = sampler.num_reshuffles(epoch) - (sampler.num_reshuffles(epoch - 1) if epoch else 0)
            assert anew == reshuffled[epoch]
        else:
            assert not reshuffled[epoch]
