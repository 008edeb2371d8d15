"""The command that writes the backbone of a run for another library."""

import argparse
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pooch import file_hash

from unmix.apis.convert import describe
from unmix.checkpoint.of_run import checkpoint_of, is_place
from unmix.converters import Converted, Proof, interpret, without_heads, write_checkpoint
from unmix.converters.containers import read
from unmix.converters.libraries import missing
from unmix.converters.library_networks import library_of, side_of
from unmix.converters.outward import compare_pooled, fits, recipe_of
from unmix.converters.proof import compare
from unmix.utils.files import check_writable
from unmix.utils.names import shown
from unmix.zoo import download

SUFFIXES = {
    'torchvision': '.pth',
    'timm': '.pth',
    'huggingface': '',
    'safetensors': '.safetensors',
    'onnx': '.onnx',
    'mmpretrain': '.pth',
    'mmdet': '.pth',
    'mmdet-c4': '.pth',
    'detectron2': '.pkl',
}
DESCRIPTION = """Write the backbone of a run for another library. The file is loaded there, and must give the same
outputs.

%(prog)s work_dirs/NAME --to torchvision
%(prog)s work_dirs/NAME --to onnx --out backbone.onnx

huggingface is a folder with config.json and model.safetensors, which timm loads by local-dir:FOLDER. safetensors has
the names of the library that has the network, and those of this package if none has. If the library is not installed,
the file is written, and the report says "not proved". Checkpoints of other codes are read by unmix convert.
"""


def export(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Write a backbone; ``prog`` is the name of the command in messages. After an error nothing is written.

    Raises:
        ValueError: If there is no such network in the library, or it gives other outputs.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('run', help='a run, a checkpoint of this package, or a model of the zoo')
    parser.add_argument('--to', required=True, choices=SUFFIXES, help='what OUT is for')
    parser.add_argument('--out', metavar='OUT', help='default: name of the network, and the suffix of the kind')
    args = parser.parse_args(arguments)
    source = checkpoint_of(args.run) if is_place(args.run) else download(args.run)
    if args.out:
        _check_out(Path(args.out).expanduser(), args.to, source)
    content = read(source)
    converted = without_heads(interpret(content, str(source), 'unmix'))
    target = Path(args.out or f'{network_name(converted.model["backbone"])}{SUFFIXES[args.to]}').expanduser()
    meta = dict(source_sha256=file_hash(str(source)), family='unmix')
    if args.to == 'huggingface':
        result = write_folder(converted, target, preprocessor_of(content))
    else:
        result = write_checkpoint(converted, target, _family(converted, args.to), meta)
    print(f'{shown(str(source))} -> {shown(str(target))} ({args.to})\n{describe(result)}')


def _check_out(target: Path, to: str, source: Path) -> None:
    """Check the place of the output.

    Raises:
        ValueError: If it is the checkpoint itself, is named like a file of another kind, or cannot be written.
    """
    suffix = SUFFIXES[to]
    if to in ('safetensors', 'onnx') and target.suffix != suffix:
        raise ValueError(f'--out is {shown(target)}; expected a file that ends in {suffix} for --to {to}.')
    if target.resolve() == Path(source).resolve():
        raise ValueError(f'--out is {shown(target)}, the checkpoint that is exported. Give another file.')
    if to != 'huggingface':
        check_writable('--out', target)


def network_name(config: Mapping[str, Any]) -> str:
    """Return a name of a backbone for a file, such as ``resnet50`` or ``vit_tiny_patch16_224``."""
    if library_of(config) is not None:
        return str(config['model_name'])
    return f'resnet{config.get("branch", config)["depth"]}'


def preprocessor_of(content: Any) -> dict[str, Any]:
    """Return the normalisation that a checkpoint has in ``meta.model``; {} if it has none."""
    model = (content.get('meta') or {}).get('model') or {} if isinstance(content, Mapping) else {}
    return dict(model.get('data_preprocessor') or {})


def _family(converted: Converted, to: str) -> str:
    """Return the family whose names a file has."""
    if to == 'onnx':
        return 'unmix'
    if to != 'safetensors':
        return to
    own = library_of(converted.model['backbone']) or 'torchvision'
    return own if fits(converted, own) else 'unmix'


def write_folder(converted: Converted, target: Path, preprocessor: Mapping[str, Any]) -> Converted:
    """Write a folder ``target`` with ``config.json`` and ``model.safetensors``, as timm has them on Hugging Face.

    ``timm.create_model('local-dir:FOLDER', pretrained=True)`` loads it; it is compared so if timm is installed.

    Args:
        converted: A backbone.
        target: The folder.
        preprocessor: Its normalisation, in units of 0 to 255.

    Raises:
        ValueError: If the folder exists, timm has no such network, or it gives other outputs.
    """
    if target.exists():
        raise ValueError(f'{target} exists. Give another folder by --out. Nothing was written.')
    config: dict[str, Any] = converted.model['backbone']
    backbone: Any = converted.networks['']['backbone']
    side, channels = side_of(config, backbone), config.get('in_channels', 3)
    recipe = recipe_of(converted, 'timm')
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f'.{target.name}') as place:
        folder = Path(place, target.name)
        folder.mkdir()
        result = write_checkpoint(converted, folder / 'model.safetensors', 'timm')
        mean, std = ([x / 255 for x in preprocessor.get(key) or []] for key in ('mean', 'std'))
        statistics = dict(mean=mean * (channels // len(mean)), std=std * (channels // len(std))) if mean else {}
        size = [channels, side, side] if recipe is not None else [3, 224, 224]
        content = dict(
            architecture=recipe.name if recipe is not None else network_name(config),
            num_classes=0,
            num_features=backbone.out_dim,
            model_args=recipe.args if recipe is not None else {},
            pretrained_cfg=dict(input_size=size, fixed_input_size=False, num_classes=0, **statistics),
        )
        (folder / 'config.json').write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')
        proofs = _prove_folder(folder, result, target)
        shutil.move(folder, target)
    return replace(result, proofs=(*converted.proofs, *proofs))


def _prove_folder(folder: Path, result: Converted, target: Path) -> tuple[Proof, ...]:
    if reason := missing('timm'):
        return (Proof(reason),)
    import timm

    network = timm.create_model(f'local-dir:{folder}', pretrained=True).double().eval()
    backbone: Any = result.networks['']['backbone']
    config = result.model['backbone']
    subject, side = f"timm.create_model('local-dir:{target}', pretrained=True)", side_of(config, backbone)
    if library_of(config) is not None:
        return compare_pooled(backbone, network, subject, str(target), side)
    return (compare(backbone, network, config.get('in_channels', 3), f'the network here, and {subject}', str(target)),)
