"""Are labels classes?"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def check_labels(labels: Tensor | Sequence[Any], num_classes: int | None, source: str) -> Tensor:
    """Return labels (N,) as integers; without this check a wrong one is an error somewhere on the device, or none.

    Args:
        labels: Classes, best on the host: reading them elsewhere waits for the device.
        num_classes: C; None: any number from 0.
        source: Where they are from and what to do, for the message.

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


def check_classes(tested: Any, known: Any) -> None:
    """Check that a label means the same class in two data sets, as far as both have names of classes.

    Args:
        tested: Data set that is evaluated.
        known: Data set whose labels its images are compared with.

    Raises:
        ValueError: If a class of the one evaluated is missing in the other, or has another number there.
    """
    ours, theirs = (list(getattr(dataset, 'classes', None) or ()) for dataset in (tested, known))
    if ours and theirs and ours != theirs[: len(ours)]:
        number, name = next((i, c) for i, c in enumerate(ours) if i >= len(theirs) or theirs[i] != c)
        other = repr(theirs[number]) if number < len(theirs) else 'none'
        raise ValueError(
            f'Label {number} is the class {name!r} of {len(ours)} in the data that are evaluated, but {other} of '
            f'{len(theirs)} in those to compare with (bank_dataloader). ImageFolder numbers its sub-folders in the '
            'order of their names: let both data_root have the same ones, or give both the same dataset.class_list.'
        )
