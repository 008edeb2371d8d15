"""Crops of several kinds: sizes, order, and that each view draws its own numbers."""

import pytest
import torch
from PIL import Image

from unmix.datasets import SampleKey
from unmix.registry import TRANSFORMS

CROP = dict(type='RandomResizedCrop', size=16, scale=(0.1, 1.0))
LARGE = dict(num_views=2, transforms=[CROP])
SMALL = dict(num_views=3, transforms=[dict(CROP, size=8)])


def image():
    return Image.effect_noise((40, 32), 80).convert('RGB')


def test_kinds_follow_each_other():
    crops = TRANSFORMS.build(dict(type='MultiCrop', crops=[LARGE, SMALL]))
    views = crops(image(), SampleKey(3, 1, 2))
    assert [tuple(view.shape) for view in views] == [(3, 16, 16)] * 2 + [(3, 8, 8)] * 3
    assert crops.num_views == 5


def test_views_are_those_of_one_numbering():
    """The same transforms in one kind or in two give the same views, all different."""
    picture, key = image(), SampleKey(3, 1, 2)
    one = TRANSFORMS.build(dict(type='MultiView', num_views=4, transforms=[CROP]))(picture, key)
    two = TRANSFORMS.build(dict(type='MultiCrop', crops=[LARGE, LARGE]))(picture, key)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert len({view.numpy().tobytes() for view in two}) == 4


def test_no_kind_is_refused():
    with pytest.raises(ValueError, match=r'MultiCrop\.crops is empty'):
        TRANSFORMS.build(dict(type='MultiCrop', crops=[]))
