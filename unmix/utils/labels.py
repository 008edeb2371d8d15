"""Validate class labels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def check_labels(labels: Tensor | Sequence[Any], num_classes: int | None, source: str) -> Tensor:
    """Return labels (N,) as integers. Without this check a wrong label is a late error on the device, or none.

    Args:
        labels: Classes, best on the host: on a device the check waits for it.
        num_classes: C; None: any number from 0.
        source: Origin of the labels, for the message.

    Raises:
        ValueError: If they are no integers, or lie outside of [0, num_classes).
    """
    labels = torch.as_tensor(labels)
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f'{source}: labels are of type {labels.dtype}; expected integers from 0.')
    if labels.numel():
        smallest, largest = (int(value) for value in labels.aminmax())
        if smallest < 0 or (num_classes is not None and largest >= num_classes):
            expected = (
                'integers from 0' if num_classes is None else f'0 to {num_classes - 1} (num_classes={num_classes})'
            )
            raise ValueError(f'{source}: labels reach from {smallest} to {largest}; expected {expected}.')
    return labels
