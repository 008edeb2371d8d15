"""The command that converts a checkpoint."""

import argparse
from collections.abc import Sequence

import torch
from pooch import file_hash

from unmix.checkpoint.of_run import checkpoint_of
from unmix.config import load_config
from unmix.converters import FAMILIES, Converted, read_checkpoint, without_heads, write_checkpoint
from unmix.models.backbones.resnet import STEMS
from unmix.registry import MODELS
from unmix.utils.matching import check_match

DESCRIPTION = """Convert a checkpoint of another code to this package's names, or back, or to a library's.

A checkpoint that is read must give the outputs of torchvision's network, and a file that is written those of its
library, or nothing is written. Without the library, the report says "not proved".

%(prog)s auto checkpoint_0199.pth.tar mocov2.pth
%(prog)s unmix work_dirs/NAME resnet50.pth --to torchvision --backbone-only

The backbone of a run for another library: unmix export.
"""


def convert(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Convert a checkpoint; ``prog`` is the name of the command in messages. After an error nothing is written."""
    listed = '\n'.join(f'  {", ".join((family.name, *family.aliases))}: {family.source}' for family in FAMILIES)
    parser = argparse.ArgumentParser(
        prog=prog,
        description=DESCRIPTION,
        epilog=f'families:\n  unmix: this package\n{listed}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('family', help="who wrote the checkpoint; 'auto' tells by its names")
    parser.add_argument('source', metavar='IN', help='the checkpoint, or the work dir of a run: its newest one')
    parser.add_argument('target', metavar='OUT', help='.pth, .safetensors, .pkl (detectron2) or .onnx (backbone)')
    parser.add_argument('--to', default='unmix', metavar='FAMILY', help='whose names OUT has (default: unmix)')
    parser.add_argument(
        '--stem', choices=sorted(STEMS), help='what a 3x3 stem is, if the family does not say (htdt: cifar-pool)'
    )
    parser.add_argument('--backbone-only', action='store_true', help='leave out projector, momentum encoder and head')
    parser.add_argument('--config', help='refuse a checkpoint that is not, tensor for tensor, of this config')
    args = parser.parse_args(arguments)
    args.source = str(checkpoint_of(args.source))
    converted = read_checkpoint(args.source, args.family, args.stem)
    source = converted.family.name
    if args.backbone_only:
        converted = without_heads(converted)
    if args.config is not None:
        with torch.device('meta'):
            own = MODELS.build(load_config(args.config).model).state_dict()
        if args.backbone_only:
            own = {name: tensor for name, tensor in own.items() if name.startswith('backbone.')}
        check_match(own, converted.state, args.source)
    meta = dict(source_sha256=file_hash(args.source), family=source)
    result = write_checkpoint(converted, args.target, args.to, meta)
    print(f'{args.source} ({source}) -> {args.target} ({args.to})\n{describe(result)}')


def describe(converted: Converted) -> str:
    """Return what was proved, what was not, and which tensors were left out, by reason."""
    networks = ', '.join(f'{name} {config["type"]}' for name, config in converted.model.items())
    stem = f', stem {converted.stem}' if converted.stem is not None else ''
    lines = [
        f'{len(converted.state)} tensors: {networks}{stem}',
        *map(str, converted.proofs),
    ]
    reasons: dict[str, list[str]] = {}
    for name, reason in converted.dropped.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        shown = ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
        lines.append(f'left out {len(names)} ({reason}): {shown}')
    return '\n'.join(lines)
