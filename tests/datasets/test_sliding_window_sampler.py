"""Windows: what they share, how often an image comes, ranks, resuming."""

from collections import Counter
from itertools import pairwise

import pytest

from unmix.datasets import SlidingWindowSampler


def windows(sampler, num):
    found = []
    for epoch in range(num):
        sampler.set_epoch(epoch)
        found.append([key.index for key in sampler])
    return found


def test_successive_windows_share_all_but_a_stride():
    found = windows(SlidingWindowSampler(range(800), 80, 10, seed=3), 73)
    assert all(len(set(window)) == 80 for window in found)
    assert all(len(set(a) & set(b)) == 70 for a, b in pairwise(found))


def test_every_image_comes_in_as_many_windows_of_a_pass():
    """W / S windows for each image that lies at least W from the ends of a pass."""
    found = windows(SlidingWindowSampler(range(800), 80, 10, seed=3), 80 * 6)
    counts = Counter(index for window in found for index in window)
    assert sum(counts.values()) == 480 * 80
    assert all(8 * 5 <= counts[index] <= 8 * 7 for index in range(800))
    interior = Counter(index for window in found[:73] for index in window)  # one pass
    assert {interior[index] for index in found[40]} == {8}


def test_images_rest_between_their_windows():
    found = windows(SlidingWindowSampler(range(800), 80, 10, seed=3), 73)
    for image in found[30][:10]:
        visits = [epoch for epoch, window in enumerate(found) if image in window]
        assert visits == list(range(visits[0], visits[0] + 8))


def coverage(found, num):
    return len({index for window in found[:num] for index in window}) / 800


@pytest.mark.parametrize(('reshuffle', 'compat', 'overlap', 'covered'), [
    ('never', 'released', 1.0, (0.10, 0.10, 0.10)),
    ('wrap', 'released', 0.21, (0.10, 0.58, 1.0)),  # 7 of 8 windows are fresh, the 8th repeats one
    ('never', None, 0.875, (0.10, 0.1875, 1.0)),
    ('wrap', None, 0.80, (0.10, 0.1875, 1.0)),
    ('pass', None, 0.875, (0.10, 0.1875, 1.0)),
])  # fmt: skip
def test_variants_overlap_and_cover_as_simulated(reshuffle, compat, overlap, covered):
    """With ImageNet's proportions: an order ten windows long, a window eight strides."""
    found = windows(SlidingWindowSampler(range(800), 80, 10, reshuffle, compat, seed=0), 240)
    shared = [len(set(a) & set(b)) / 80 for a, b in pairwise(found)]
    assert sum(shared) / len(shared) == pytest.approx(overlap, abs=0.03)
    for num, share in zip((1, 8, 78), covered, strict=True):
        assert coverage(found, num) == pytest.approx(share, abs=0.03)


def test_windows_are_functions_of_seed_and_epoch():
    one, other = (SlidingWindowSampler(range(100), 20, 5, seed=seed) for seed in (1, 2))
    assert windows(one, 30)[29] == windows(SlidingWindowSampler(range(100), 20, 5, seed=1), 30)[29]
    assert windows(one, 3) != windows(other, 3)
    one.set_epoch(29)
    whole = list(one)
    assert {(key.epoch, key.seed) for key in whole} == {(29, 1)}
    one.set_start(7)
    assert list(one) == whole[7:]
    assert len(one) == 20
    one.set_epoch(30)
    assert len(list(one)) == 20
    with pytest.raises(ValueError, match='cannot be resumed after 21'):
        one.set_start(21)


def test_ranks_have_windows_of_their_own_images(monkeypatch):
    found = []
    for rank in range(4):
        monkeypatch.setattr('unmix.datasets.samplers.keys.get_dist_info', lambda rank=rank: (rank, 4))
        found.append(windows(SlidingWindowSampler(range(103), 40, 8, seed=0), 12))
    for rank, own in enumerate(found):
        assert all(len(window) == 10 for window in own)
        assert {index % 4 for window in own for index in window} == {rank}
        assert len({index for window in own for index in window}) >= 24
    assert max(index for own in found for window in own for index in window) < 100  # 25 images on each rank


@pytest.mark.parametrize(('arguments', 'message'), [
    (dict(window=0), 'sampler.window is 0'),
    (dict(window=20, stride=0), 'sampler.stride is 0'),
    (dict(window=20, stride=21), 'sampler.stride is 21'),
    (dict(window=20, stride=5, reshuffle='always'), "sampler.reshuffle is 'always'"),
    (dict(window=20, stride=5, compat='released'), "sampler.compat is 'released' with reshuffle='pass'"),
])  # fmt: skip
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SlidingWindowSampler(range(100), seed=0, **arguments)


def test_a_window_longer_than_the_data_is_refused_when_it_is_drawn():
    with pytest.raises(ValueError, match=r'window is 101 for each of 1 processes, of which each has only 100 images'):
        list(SlidingWindowSampler(range(100), window=101, stride=10))
