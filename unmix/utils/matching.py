"""Does a checkpoint belong to a model?"""

from collections.abc import Mapping

from torch import Tensor


def check_match(own: Mapping[str, Tensor], loaded: Mapping[str, Tensor], source: str, minimum: float = 1.0) -> float:
    """Compare the names and shapes of a checkpoint's tensors with a model's.

    Args:
        own: State dict of the model.
        loaded: State dict of the checkpoint.
        source: Where it comes from, for the message.
        minimum: Share of the model's tensors that must be there.

    Returns:
        The share of the model's tensors that the checkpoint has, in the same shape.

    Raises:
        ValueError: If it is below ``minimum``, or the checkpoint has tensors that the model has not; lists them.
    """
    missing = [name for name in own if name not in loaded]
    unexpected = [name for name in loaded if name not in own]
    shapes = [
        f'{name} {tuple(loaded[name].shape)} instead of {tuple(own[name].shape)}'
        for name in own
        if name in loaded and loaded[name].shape != own[name].shape
    ]
    share = 1 - (len(missing) + len(shapes)) / max(len(own), 1)
    if share < minimum or (minimum == 1.0 and unexpected):
        parts = [('missing', missing), ('not in the model', unexpected), ('of another shape', shapes)]
        details = '; '.join(
            f'{len(names)} {what}: {", ".join(names[:4])}{", ..." if len(names) > 4 else ""}'
            for what, names in parts
            if names
        )
        raise ValueError(
            f'{source} is a checkpoint of another model: {share:.0%} of the {len(own)} tensors match; {details}. '
            'Give the config that the checkpoint was trained with, or another checkpoint.'
        )
    return share
