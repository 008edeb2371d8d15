"""Compare the tensors of a checkpoint with those of a model."""

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor


def tensors_of(checkpoint: Any, source: str) -> dict[str, Tensor]:
    """Return the weights of a checkpoint.

    Raises:
        ValueError: If it has no ``state_dict``.
    """
    state = checkpoint.get('state_dict') if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        kinds = sorted(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(
            f"{source} has no 'state_dict' but {kinds}; give a checkpoint that tools/train.py wrote, or convert it "
            'first by tools/model_converters/convert.py.'
        )
    return state


def check_match(
    own: Mapping[str, Tensor], loaded: Mapping[str, Tensor], source: str, strict: bool = True, key: str = ''
) -> float:
    """Compare the names and shapes of a checkpoint's tensors with a model's.

    Args:
        own: State dict of the model.
        loaded: State dict of the checkpoint.
        source: Description of the checkpoint, for the message.
        strict: Whether all tensors must match. If not, one must match, and a warning lists those that do not.
        key: The config key that sets ``strict``, for the message.

    Returns:
        The share of the model's tensors that the checkpoint has, in the same shape.

    Raises:
        ValueError: If tensors are missing, too many or of another shape; it lists them.
    """
    missing = [name for name in own if name not in loaded]
    unexpected = [name for name in loaded if name not in own]
    shapes = [
        f'{name} {tuple(loaded[name].shape)} instead of {tuple(own[name].shape)}'
        for name in own
        if name in loaded and loaded[name].shape != own[name].shape
    ]
    share = 1 - (len(missing) + len(shapes)) / max(len(own), 1)
    parts = [('missing', missing), ('not in the model', unexpected), ('of another shape', shapes)]
    details = '; '.join(
        f'{len(names)} {what}: {", ".join(names[:4])}{", ..." if len(names) > 4 else ""}'
        for what, names in parts
        if names
    )
    if details and (strict or share == 0):
        raise ValueError(
            f'{source} is a checkpoint of another model: {share:.0%} of the {len(own)} tensors match; {details}. '
            'Give the config that the checkpoint was trained with, or another checkpoint'
            + (f', or set {key}=False to load what fits.' if strict and key and share else '.')
        )
    if details:
        message = f'{source}: {share:.0%} of the {len(own)} tensors match, the others stay as they are; {details}'
        print_log(message, logger='current', level=logging.WARNING)
    return share
