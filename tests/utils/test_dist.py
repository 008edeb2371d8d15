"""Models behind wrappers."""

import torch

from unmix.utils.dist import unwrap


def test_unwrap():
    model = torch.nn.Linear(1, 1)
    assert unwrap(model) is model
    assert unwrap(torch.nn.DataParallel(model)) is model
