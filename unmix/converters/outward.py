"""From this package's names and networks to a foreign checkpoint, with a proof before anything is written."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unmix.converters import containers
from unmix.converters.families import UNMIX, find_family
from unmix.converters.family import Family
from unmix.converters.inward import Converted
from unmix.converters.networks import stem_settings
from unmix.converters.onnx_export import write_onnx
from unmix.converters.proof import largest_difference, outputs, probe, prove
from unmix.converters.rules import rename_out
from unmix.utils.files import atomic_path
from unmix.version import __version__


def without_heads(converted: Converted) -> Converted:
    """Leave out what follows the backbone, the momentum encoder and the state of the head."""
    state = {name: tensor for name, tensor in converted.state.items() if name.startswith('backbone.')}
    dropped = {name: 'not part of the backbone' for name in converted.state if name not in state}
    backbone = nn.ModuleDict({'backbone': converted.networks['']['backbone']})
    return replace(
        converted,
        state=state,
        networks={'': backbone},
        model=dict(backbone=converted.model['backbone']),
        dropped=converted.dropped | dropped,
    )


def express(converted: Converted, to: str) -> tuple[Converted, dict[str, Tensor]]:
    """Translate a checkpoint to the names of a family.

    Args:
        converted: What ``read_checkpoint`` returned.
        to: The family.

    Returns:
        What is left of the checkpoint, and its tensors by the family's names.

    Raises:
        ValueError: If there is no such family, or it has no such network.
    """
    family = find_family(to)
    _check_network(converted, family)
    tensors, left = rename_out(converted.state, family.rules)
    state = {name: tensor for name, tensor in converted.state.items() if name not in left}
    networks = {
        prefix: nn.ModuleDict({name: net for name, net in modules.items() if _has(state, prefix + name)})
        for prefix, modules in converted.networks.items()
        if _has(state, f'{prefix}backbone')
    }
    dropped = converted.dropped | left
    return replace(converted, family=family, state=state, networks=networks, dropped=dropped), tensors


def _has(state: Mapping[str, Tensor], module: str) -> bool:
    return any(name.startswith(f'{module}.') for name in state)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same, not-a-number included."""
    same_kind = a.dtype == b.dtype and a.shape == b.shape
    return same_kind and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


def _check_network(converted: Converted, family: Family) -> None:
    """Raise if a family cannot hold the backbone."""
    branches = 2 if converted.model['backbone']['type'] == 'TwoBranch' else 1
    if family.encoders and len(family.encoders[0].branches) != branches:
        raise ValueError(
            f'The checkpoint has {branches} backbone(s), {family.name} has {len(family.encoders[0].branches)}. '
            f'Write it as {"unmix, cmc or .onnx" if branches == 2 else "another family"}.'
        )
    if family.small_stem is None and stem_settings(converted.stem)['kernel_size'] == 3:
        raise ValueError(
            f'The checkpoint has a 3x3 stem for small images, {family.name} has only the 7x7 one. Write it as '
            'torchvision, .safetensors or .onnx.'
        )


def write_checkpoint(
    converted: Converted, target: str | Path, to: str = 'unmix', meta: Mapping[str, Any] | None = None
) -> Converted:
    """Write a checkpoint by the names of a family; the file takes its place only once what it computes is proved.

    Args:
        converted: What ``read_checkpoint`` returned.
        target: The file; its suffix says of which kind: .pth, .safetensors, .pkl or .onnx (the backbone alone).
        to: The family.
        meta: What to note in a file of this package.

    Returns:
        What was written, and the largest difference of an output.

    Raises:
        ValueError: If the family has no such network, a package is missing, or the outputs differ.
    """
    target = Path(target).expanduser()
    if target.suffix not in containers.SUFFIXES:
        raise ValueError(f'{target} ends in {target.suffix!r}; expected one of {", ".join(containers.SUFFIXES)}.')
    if target.suffix == '.pkl' and to != 'detectron2':
        raise ValueError(f'{target}: .pkl files, of arrays, are for detectron2, not for {to}; give a name in .pth.')
    if target.suffix == '.onnx':
        return _write_onnx(without_heads(converted), target)
    result, tensors = express(converted, to)
    content = containers.wrap(tensors, result.family)
    if result.family is UNMIX:
        content['meta'] = dict(meta or {}, unmix_version=__version__, model=result.model)
    difference = result.difference
    with atomic_path(target) as temporary:
        containers.write(content, tensors, temporary)
        written = containers.tensors_of(containers.read(temporary), result.family, str(target))
        if written.keys() != tensors.keys() or not all(same_bits(written[name], tensors[name]) for name in tensors):
            raise ValueError(f'{target} reads back differently from what was written; the disk may be damaged.')
        for encoder in result.family.encoders:
            if encoder.ours in result.networks:
                found = prove(result.networks[encoder.ours], written, encoder, result.stem, str(target))
                difference = max(difference, found)
    return replace(result, difference=difference)


def _write_onnx(converted: Converted, target: Path) -> Converted:
    networks = converted.networks['']
    images = probe(networks)
    with atomic_path(target) as temporary:
        features = write_onnx(networks['backbone'], images, temporary)
        difference = largest_difference(outputs(networks, images), {'backbone': features}, str(target))
    return replace(converted, difference=max(converted.difference, difference))
