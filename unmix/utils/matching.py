"""Compare the tensors of a checkpoint with those of a model."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log
from torch import Tensor

Tensors = dict[str, Tensor]


_WRAPPERS = {'module', '_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module'}
_DEPTH = 4  # of containers in which state dicts are looked for


def unwrapped(name: str) -> str:
    """Return the name of a tensor without the parts that DistributedDataParallel, torch.compile and FSDP insert."""
    return '.'.join(part for part in name.split('.') if part not in _WRAPPERS)


def tensors_of(checkpoint: Any, source: str, own: Mapping[str, Tensor] | None = None, prefix: str = '') -> Tensors:
    """Return the weights of a checkpoint, by names without wrappers (``module.``, ``_orig_mod.``).

    They are the ``state_dict``, or the checkpoint itself. If none of the model's tensors is there, they are looked for
    in all entries (``model``, ``teacher``, ...), and taken if there is one that has most of them.

    Args:
        checkpoint: The content of the file.
        source: Description of the checkpoint, for messages.
        own: State dict of the model. None: names are not compared.
        prefix: What the names of the model's tensors begin with in the checkpoint, such as ``'backbone.'``. It may
            begin with the name of an entry, as in ``'teacher.backbone.'``. It is left out of the names.

    Raises:
        ValueError: If there are no weights, or several entries have as many of the model's.
    """
    short = all(unwrapped(name) == name for name in own or ())
    whole, entries = _flat(checkpoint, short)
    state = checkpoint.get('state_dict') if isinstance(checkpoint, Mapping) else None
    plain = _below(_flat(state, short)[0] if isinstance(state, Mapping) else whole, prefix)
    if not isinstance(state, Mapping) and (own is None or not whole):
        raise ValueError(
            f"{source} has no 'state_dict' but {_keys(checkpoint)}; give a checkpoint that tools/train.py wrote, or "
            'convert it first by `unmix convert auto IN OUT`.'
        )
    if own is None or places(own, plain)['']:
        return plain
    counts = {
        place: count
        for place, count in places(own, whole).items()
        if place.endswith(prefix) and place[: len(place) - len(prefix)] in entries and 2 * count >= len(own)
    }
    best = sorted(place for place, count in counts.items() if count == max(counts.values()))
    if len(best) > 1:
        raise ValueError(
            f'{source} has several networks that fit: {", ".join(place.rstrip(".") for place in best)}. Choose one by '
            f"the prefix, as in init_cfg=dict(type='Pretrained', checkpoint=..., prefix={best[0].rstrip('.')!r}), or "
            'convert it first by `unmix convert auto IN OUT`.'
        )
    if best:
        print_log(f'{source}: taking the tensors in {best[0].rstrip(".") or "the file"!r}', logger='current')
        return _below(whole, best[0])
    return plain


def _flat(content: Any, short: bool) -> tuple[Tensors, set[str]]:
    """Return the tensors in nested dicts by dotted names, and what the names of all dicts begin with.

    If ``short``, the names are those without wrappers, unless two would be the same.
    """
    found: Tensors = {}
    entries = {''}

    def add(part: Any, start: str, depth: int) -> None:
        for key, value in part.items() if isinstance(part, Mapping) else ():
            if isinstance(value, Tensor):
                found[f'{start}{key}'] = value
                entries.add(start)
            elif depth:
                add(value, f'{start}{key}.', depth - 1)

    add(content, '', _DEPTH)
    names = {unwrapped(name): tensor for name, tensor in found.items()}
    return (names, set(map(unwrapped, entries))) if short and len(names) == len(found) else (found, entries)


def flat_tensors(content: Any) -> Tensors:
    """Return the tensors in nested dicts by dotted names without wrappers (``module.``, ``_orig_mod.``)."""
    return _flat(content, True)[0]


def places(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Counter[str]:
    """Return how many of a model's tensors there are, in the same shape, behind each beginning of their names."""
    counts: Counter[str] = Counter()
    for name, tensor in tensors.items():
        parts = name.split('.')
        for i in range(len(parts)):
            ending = '.'.join(parts[i:])
            if ending in own and own[ending].shape == tensor.shape:
                counts[name.removesuffix(ending)] += 1
    return counts


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _keys(content: Any) -> str:
    return str(sorted(map(str, content))[:8]) if isinstance(content, Mapping) else type(content).__name__


def check_match(
    own: Mapping[str, Tensor],
    loaded: Mapping[str, Tensor],
    source: str,
    strict: bool = True,
    key: str = '',
    advice: str = 'Give the config that the checkpoint was trained with, or another checkpoint',
) -> float:
    """Compare the names and shapes of a checkpoint's tensors with a model's.

    Args:
        own: State dict of the model.
        loaded: State dict of the checkpoint.
        source: Description of the checkpoint, for the message.
        strict: Whether all tensors must match. If not, one must match, and a warning lists those that do not.
        key: The config key that sets ``strict``, for the message.
        advice: What to do, for the message.

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
            + advice
            + _way(own, loaded, share)
            + (f', or set {key}=False to load what fits.' if strict and key and share else '.')
        )
    if details:
        message = f'{source}: {share:.0%} of the {len(own)} tensors match, the others stay as they are; {details}'
        print_log(message, logger='current', level=logging.WARNING)
    return share


def _way(own: Mapping[str, Tensor], loaded: Mapping[str, Tensor], share: float) -> str:
    """Return what to do with a checkpoint of which nothing fits: the prefix of the names, or their translation."""
    if share:
        return ''
    place, count = max(places(own, loaded).items(), key=lambda item: item[1], default=('', 0))
    if 2 * count >= len(own):
        return (
            f', or strip the prefix of the names there, {place!r}: prefix={place.rstrip(".")!r} in init_cfg, or '
            f"revise_keys=[({'^' + place!r}, '')] of MMEngine's load_checkpoint"
        )
    names, ours = (', '.join(list(tensors)[:3]) or 'none' for tensors in (loaded, own))
    return (
        f'. The names there begin with {names}, those of the model with {ours}. If it is the same network, give their '
        'prefix in init_cfg, or translate them by `unmix convert auto IN OUT`'
    )
