"""Translation of a checkpoint to the names of another code; the written file is loaded there and compared."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from unmix.converters import containers
from unmix.converters.families import UNMIX, find_family
from unmix.converters.family import TORCH_SUFFIXES, Family, Library
from unmix.converters.inward import Converted
from unmix.converters.libraries import missing
from unmix.converters.library_networks import Recipe, library_of, side_of
from unmix.converters.networks import resnets_of, stem_settings
from unmix.converters.proof import Proof, compare, prove_backbones
from unmix.converters.rules import rename_out
from unmix.utils.files import atomic_path
from unmix.version import __version__


def without_heads(converted: Converted) -> Converted:
    """Return the checkpoint of the backbone alone."""
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
    """Translate a checkpoint to the names of a family; return the checkpoint, and its tensors by those names.

    Raises:
        ValueError: If there is no such family, or it has no name for a tensor.
    """
    family = find_family(to)
    if recipe := recipe_of(converted, to):
        left = [name for name in converted.state if not name.startswith('backbone.')]
        tensors = recipe.tensors(converted.state)
    else:
        tensors, left = rename_out(converted.state, family.rules)
    if left:
        raise ValueError(_no_place(family.name, left))
    return replace(converted, family=family), tensors


def recipe_of(converted: Converted, to: str) -> Recipe | None:
    """Return how a library builds the backbone, if that is a network of a library and ``to`` is such a library."""
    config = converted.model['backbone']
    if library_of(config) is None or to not in ('timm', 'torchvision'):
        return None
    return Recipe(to, config, converted.networks['']['backbone'])


def fits(converted: Converted, to: str) -> bool:
    """Return whether a family has a network for the backbone."""
    try:
        if recipe_of(converted, to) is None:
            _check_backbone(converted.model['backbone'], find_family(to))
    except ValueError:
        return False
    return True


def _no_place(name: str, tensors: list[str]) -> str:
    parts = ', '.join(dict.fromkeys(tensor.partition('.')[0] for tensor in tensors))
    return (
        f'{name} has no place for {parts} ({len(tensors)} tensors). Leave out all but the backbone by --backbone-only '
        '(in Python: without_heads), or keep all by --to unmix. Nothing was written.'
    )


def _check_backbone(config: Mapping[str, Any], family: Family) -> None:
    """Raise a ValueError if the family has no network with the config of the backbone."""
    library, resnet = family.library, next(iter(resnets_of(config).values()), {})
    own = dict(stem_width=resnet.get('width', 64), width=64, in_channels=3) | resnet | dict(type=config['type'])
    if library_of(config) is not None:
        own |= dict(type=f'{config["type"]} {config["model_name"]}', stem='imagenet', depth=18)
    stems = ('imagenet',) if library else family.stems
    kind = 'ResNet' if 'backbone' in family.resnets else 'TwoBranch'
    possible: dict[str, Sequence[Any]] = dict(type=[kind], stem=stems)
    if not family.any_width:
        possible |= dict(depth=(library or Library).depths, width=[64], stem_width=[64], in_channels=[3])
    wrong = [
        f'{key} is {own[key]}, not {" or ".join(map(str, values))}'
        for key, values in possible.items()
        if (stem_settings(own[key]) not in map(stem_settings, values) if key == 'stem' else own[key] not in values)
    ]
    if wrong:
        raise ValueError(
            f'{family.name} has no network for this backbone: {"; ".join(wrong)}. Write it as .onnx, or keep the names '
            'of this package by --to unmix (unmix export: --to safetensors): both hold every backbone. Nothing was '
            'written.'
        )


def write_checkpoint(
    converted: Converted, target: str | Path, to: str = 'unmix', meta: Mapping[str, Any] | None = None
) -> Converted:
    """Write a checkpoint by the names of a family. A temporary file is loaded and compared before it is renamed.

    Args:
        converted: Result of ``read_checkpoint``.
        target: The file. Its suffix decides its kind: .pth, .safetensors, .pkl or .onnx (the backbone alone).
        to: Name of the family.
        meta: Entries for the ``meta`` of a file of this package.

    Returns:
        The written checkpoint. Its last proof is that of the written file, or has the reason why there is none.

    Raises:
        ValueError: If the family has no such network or no name for a tensor, a package that writes the file is
            missing, the library cannot load the file, or the outputs differ.
    """
    target = Path(target).expanduser()
    suffixes = (*TORCH_SUFFIXES, *find_family(to).suffixes)
    if target.suffix not in suffixes:
        raise ValueError(f'{target} ends in {target.suffix!r}; expected one of {", ".join(suffixes)} for {to}.')
    if target.suffix == '.onnx':
        return _write_onnx(converted, target)
    if to != UNMIX.name and recipe_of(converted, to) is None:
        _check_backbone(converted.model['backbone'], find_family(to))
    result, tensors = express(converted, to)
    content = containers.wrap(tensors, result.family)
    recipe, meta = recipe_of(result, to), dict(meta or {}, unmix_version=__version__)
    model = dict(data_preprocessor=result.preprocessor) if result.preprocessor else {}
    if result.family is UNMIX:
        content['meta'] = dict(meta, model=result.model | model)
    elif recipe is not None and (to == 'timm' or target.suffix == '.safetensors'):
        # What shapes do not show, such as heads. torchvision's users give a .pth as it is to load_state_dict.
        content = dict(state_dict=tensors, meta=dict(meta, network=recipe.config(), model=model))
    with atomic_path(target) as temporary:
        containers.write(content, tensors, temporary)
        written = containers.tensors_of(containers.read(temporary), result.family, str(target))
        try:
            torch.testing.assert_close(written, tensors, rtol=0, atol=0, equal_nan=True)
        except AssertionError as error:
            raise ValueError(
                f'{target} has other content than was written; the disk may be damaged. {error}'
            ) from error
        proofs = _prove(result, written, temporary, target)
    return replace(result, proofs=(*converted.proofs, *proofs))


def _prove(result: Converted, written: Mapping[str, Tensor], file: Path, target: Path) -> tuple[Proof, ...]:
    """Load the written file into the library's network, and compare."""
    library, config = result.family.library, result.model['backbone']
    if library is None:
        return prove_backbones(result.family, result.networks, config, written, str(target))
    if reason := missing(library.package):
        return (Proof(reason),)
    recipe = recipe_of(result, result.family.name)
    name = str(recipe or f"{library.package.partition('.')[0]}'s ResNet-{config['depth']}")
    try:
        if recipe is not None:
            theirs = recipe.load(file)
        else:
            theirs = library.load(file, config['depth'], len(result.state.get('head.fc.bias', ())))
    except (RuntimeError, KeyError) as error:
        raise ValueError(f'{target} cannot be loaded into {name}; nothing was written: {error}') from error
    networks, subject = result.networks[''], f'the network here, and {target} in {name}'
    if recipe is not None:
        return compare_pooled(
            networks['backbone'], theirs, f'{target} in {name}', str(target), side_of(config, networks['backbone'])
        )
    return (compare(nn.Sequential(*networks.values()), theirs, 3, subject, str(target)),)


def compare_pooled(
    backbone: Any, theirs: Callable[[Tensor], Tensor], subject: str, target: str, size: int
) -> tuple[Proof, ...]:
    """Compare a library's network as a backbone with the network in a written file.

    Where the library cannot pool as the backbone does, its own pooling is compared, and a second entry says so.

    Raises:
        ValueError: If the outputs differ.
    """
    args = (theirs, backbone.in_channels)
    try:
        return (compare(backbone, *args, f'the network here, and {subject}', target, size=size),)
    except ValueError:
        if backbone.pool is None:
            raise
    proof = compare(own_pool(backbone), *args, f'the network here without its pool, and {subject}', target, size=size)
    other = (
        f'the features of this run: it pools by pool={backbone.pool!r}, and {target} gives the features that '
        f'{backbone.library} itself pools, which are others'
    )
    return (proof, Proof(other))


def own_pool(backbone: Any) -> nn.Module:
    """Return a copy of a library's network as a backbone, with the features that the library itself pools."""
    copied = copy.deepcopy(backbone)
    copied.pool = None
    return cast(nn.Module, copied)


def _write_onnx(converted: Converted, target: Path) -> Converted:
    """Write the backbone as a graph: images (N, C, H, W) to features (N, D); compare and return it.

    N is free, and H and W are too, unless the network is one of a library: then they are those of its config.
    """
    if others := [name for name in converted.state if not name.startswith('backbone.')]:
        raise ValueError(_no_place('An .onnx file', others))
    try:
        import onnx
        import onnx.reference
        import onnxscript  # noqa: F401  the exporter needs it
    except ImportError as error:
        raise ValueError(
            f"ONNX needs the package {str(error.name).partition('.')[0]}: pip install 'unmix[export]', or write a .pth."
        ) from error
    config, backbone = converted.model['backbone'], converted.networks['']['backbone']
    library, side = library_of(config) is not None, side_of(config, backbone)
    resnets = [config] if library else resnets_of(config).values()
    channels = sum(each.get('in_channels', 3) for each in resnets)
    sides, free = ((side, side), {}) if library else ((96, 128), {2: 'height', 3: 'width'})
    with atomic_path(target) as temporary:
        torch.onnx.export(
            backbone,
            (torch.zeros(3, channels, *sides),),  # not the size of the images that are compared, where it is free
            str(temporary),
            input_names=['images'],
            output_names=['features'],
            dynamic_shapes=({0: 'batch'} | free,),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        graph = onnx.load(str(temporary))
        onnx.checker.check_model(graph)
        reason = missing('onnxruntime')
        if reason is None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            run = onnxruntime.InferenceSession(str(temporary), options, providers=['CPUExecutionProvider']).run
        else:
            run = onnx.reference.ReferenceEvaluator(graph).run

        def theirs(images: Tensor) -> Tensor:
            return torch.from_numpy(np.asarray(run(None, {'images': images.numpy()})[0]))

        by = 'onnxruntime' if reason is None else "ONNX's reference evaluator"
        by += f', which takes images of {side} px only' if library else ''
        subject = f'the network here, and {target} in {by}'
        proof = compare(backbone, theirs, channels, subject, str(target), torch.float32, side)
    return replace(converted, proofs=(*converted.proofs, proof))
