"""What the metrics on frozen features are given."""

from typing import NamedTuple

from torch import Tensor


class Features(NamedTuple):
    """Features of one data set.

    Attributes:
        features: (N, D), floating.
        labels: (N,) integers.
    """

    features: Tensor
    labels: Tensor
