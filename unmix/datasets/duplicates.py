"""Images that come twice: with equal pixels, or with nearly equal thumbnails."""

from collections.abc import Iterator

import numpy as np

TABLES, BITS = 12, 18  # a pair whose details correlate by 0.99 is found with a probability of 0.999
WINDOW = 64  # images of one bucket that an image is compared with
LARGE, SMALL, SMOOTH = (0.99, 0.95), (0.997, 0.99), (0.9, 0.6)  # least correlation of thumbnails, and of their details
SMALL_SIDE = 32  # pixels; below it different images are alike, such as digits of 8 x 8
TEXTURE, SHARE = 1.5, 0.1  # least standard deviation of details: grey levels, and as a part of that of the thumbnail
_ROWS = 2**15


def equal_groups(digests: np.ndarray) -> list[np.ndarray]:
    """Return the groups of two or more equal numbers, as positions in order."""
    order = np.argsort(digests, kind='stable')
    ends = np.flatnonzero(np.diff(digests[order])) + 1
    groups = [np.sort(group) for group in np.split(order, ends) if len(group) > 1]
    return sorted(groups, key=lambda group: int(group[0]))


def near_pairs(thumbnails: np.ndarray, sides: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return pairs of images that are one picture in other sizes, formats or brightness.

    Two correlations must be high: that of the thumbnails, and that of their details (thumbnail less its 3 x 3 mean),
    since pictures of a sky have alike thumbnails. Images with few details must be equal but for rounding, and the
    correlations are lower. The limits leave out all pairs among crops, without a shift of at most 3 pixels, of the
    photographs in scikit-learn and scikit-image, and among scikit-learn's digits.
    Candidates are images with equal signs of :data:`BITS` random projections, in one of :data:`TABLES` draws; each is
    compared with at most :data:`WINDOW` others of a bucket, so time grows as N log N.

    Args:
        thumbnails: (N, S, S) uint8.
        sides: (N,) shorter side of each image, in pixels.
        means: (N, 3) mean of each channel.

    Returns:
        (M, 2) positions, the smaller first.
    """
    number, large = len(thumbnails), sides >= SMALL_SIDE
    detailed, smooth = np.zeros(number, bool), np.zeros(number, bool)
    keys = np.empty((TABLES, number), np.int32)
    planes = np.random.default_rng(0).standard_normal((thumbnails.shape[1] ** 2, TABLES * BITS), np.float32)
    for start in range(0, number, _ROWS):
        rows = slice(start, start + _ROWS)
        whole, details, spread, texture = _features(thumbnails[rows])
        detailed[rows] = (texture >= TEXTURE) & (texture >= SHARE * spread)
        smooth[rows] = ~detailed[rows] & (spread >= 1)
        signs = (np.where(detailed[rows, None], details, whole) @ planes > 0).reshape(-1, TABLES, BITS)
        keys[:, rows] = (signs @ (1 << np.arange(BITS))).T
    found = [np.empty((0, 2), np.int64)]
    members = np.flatnonzero(detailed)
    for table in keys:
        for pairs in _candidates(members[np.argsort(table[members], kind='stable')], table):
            found.append(pairs[_same_details(thumbnails, pairs, large)])
    members = np.flatnonzero(smooth & large)
    for table in [*keys, np.zeros(number, np.int32)]:  # the last: images of nearly the same mean
        for pairs in _candidates(members[np.lexsort((means[members, 0], table[members]))], table):
            found.append(pairs[_equal(thumbnails, pairs, means)])
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def _candidates(order: np.ndarray, table: np.ndarray) -> Iterator[np.ndarray]:
    """Yield pairs (M, 2) of equal keys, ``order`` being sorted by them."""
    for shift in range(1, WINDOW + 1):
        first, second = order[:-shift], order[shift:]
        same = np.flatnonzero(table[first] == table[second])
        if len(same) == 0:
            return
        for start in range(0, len(same), _ROWS):
            part = same[start : start + _ROWS]
            yield np.stack([first[part], second[part]], axis=1)


def _same_details(thumbnails: np.ndarray, pairs: np.ndarray, large: np.ndarray) -> np.ndarray:
    (a, details_a, *_), (b, details_b, *_) = (_features(thumbnails[pairs[:, side]]) for side in (0, 1))
    least = np.where(large[pairs].all(1)[:, None], LARGE, SMALL)
    return ((a * b).sum(1) >= least[:, 0]) & ((details_a * details_b).sum(1) >= least[:, 1])


def _equal(thumbnails: np.ndarray, pairs: np.ndarray, means: np.ndarray) -> np.ndarray:
    one, other = (thumbnails[pairs[:, side]].astype(np.float32) for side in (0, 1))
    apart, shift = (one - other).reshape(len(pairs), one.shape[1] * one.shape[2]), np.subtract(*means[pairs.T])
    near = (np.abs(apart) <= 3).all(1) & (np.square(apart).mean(1) <= 0.9**2) & (np.abs(shift) <= 0.6).all(1)
    (a, details_a, *_), (b, details_b, *_) = _features(one), _features(other)
    return near & ((a * b).sum(1) >= SMOOTH[0]) & ((details_a * details_b).sum(1) >= SMOOTH[1])


def _features(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return thumbnails and their details as unit vectors (N, S * S) of mean 0, and the standard deviations (N,)."""
    plain = thumbnails.astype(np.float32)
    wide = np.pad(plain, ((0, 0), (1, 1), (1, 1)), mode='reflect')
    rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    mean = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9
    (whole, spread), (fine, texture) = _unit(plain), _unit(plain - mean)
    return whole, fine, spread, texture


def _unit(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = images.reshape(len(images), images.shape[1] * images.shape[2])
    rows = rows - rows.mean(1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1)
    return rows / np.maximum(norms, 1e-6)[:, None], norms / np.sqrt(rows.shape[1])
