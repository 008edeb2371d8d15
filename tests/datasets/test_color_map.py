"""Colours for grey images."""

import pytest
import torch

from unmix.datasets import Digits
from unmix.datasets.transforms import BatchColorMap

PALETTE = [[40, 20, 120], [255, 230, 120]]


def test_grey_lies_between_the_colours():
    transform = BatchColorMap(PALETTE, jitter=0)
    images = torch.tensor([0.0, 255.0, 51.0]).view(1, 1, 1, 3)
    params = transform.draw(lambda num: torch.rand(1, num).numpy(), images.shape)
    colored = transform.apply(images, params)
    expected = torch.tensor([PALETTE[0], PALETTE[1], [83, 62, 120]], dtype=torch.float32).T
    torch.testing.assert_close(colored[0, :, 0], expected)
    with pytest.raises(ValueError, match='these have 3 channels'):
        transform.apply(colored, params)


def test_each_view_has_its_own_colours_within_the_jitter():
    digits = Digits(pipeline=dict(type='BatchMultiView', transforms=[dict(type='BatchColorMap', palette=PALETTE)]))
    views = digits.__getitems__(range(20))['inputs']
    black = torch.stack([view.amin((2, 3)) for view in views])
    assert len(black.flatten(0, 1).unique(dim=0)) == 40
    assert ((black - torch.tensor(PALETTE[0])).abs() <= 40).all()
    again = digits.__getitems__([7, 3])['inputs']
    assert torch.equal(again[1], views[1][[7, 3]])
