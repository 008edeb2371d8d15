"""What a file of weights tells of its network, itself or beside it: its config, its heads, its statistics."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from torch import Tensor

from unmix.converters.library_networks import CLASSIFIERS, LIBRARIES, VIT, library_backbone, vit_config
from unmix.converters.networks import below
from unmix.converters.rules import compile_pattern, rename_in
from unmix.utils.matching import flat_tensors

# Which network of a file with several is taken: the teacher of DINO, the encoder of MoCo v3.
PREFERRED = ('teacher', 'base_encoder')
# Heads of the Vision Transformers of MoCo v3 by ``arch`` of its checkpoints, and of DINO by their width.
MOCO_V3 = dict(vit_small=12, vit_base=12, vit_large=16, vit_huge=16)
DINO = {192: 3, 384: 6, 768: 12}
WEIGHTS = ('model.safetensors', 'pytorch_model.bin')  # files beside timm's config.json


class Said(NamedTuple):
    """What a file says of its network, which is a library's.

    Attributes:
        backbone: Config of the backbone that it is here.
        statistics: ``mean`` and ``std`` of its images in units of 0 to 255; {} if they are not known.
        place: Where that is said.
    """

    backbone: dict[str, Any]
    statistics: dict[str, Any]
    place: str


def said_of(content: Any, path: Path) -> Said | None:
    """Return what a file of ``unmix export`` says in ``meta``, or timm's ``config.json`` beside it; None: nothing."""
    meta = content.get('meta') if isinstance(content, Mapping) else None
    network = meta.get('network') if isinstance(meta, Mapping) else None
    if isinstance(network, Mapping) and network.get('type') in LIBRARIES:
        return Said(dict(network), written_statistics(content), 'meta.network')
    beside = path.parent / 'config.json'
    if path.name not in WEIGHTS or not beside.is_file():
        return None
    try:
        config = json.loads(beside.read_text(encoding='utf-8'))
        name, written = config['architecture'], config.get('pretrained_cfg') or config
        backbone = library_backbone('timm', name, config.get('model_args') or {})
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
        return None  # of another library
    channels = (written.get('input_size') or [3])[0]
    backbone |= dict(in_channels=channels) if channels != 3 else {}
    statistics = {key: [255 * x for x in written[key]] for key in ('mean', 'std') if written.get(key)}
    return Said(backbone, statistics, str(beside))


def written_statistics(content: Any) -> dict[str, Any]:
    """Return ``mean`` and ``std`` in ``meta.model`` of a checkpoint, in units of 0 to 255; {}: they are not there."""
    model = (content.get('meta') or {}).get('model') or {} if isinstance(content, Mapping) else {}
    written = model.get('data_preprocessor') or {} if isinstance(model, Mapping) else {}
    return {key: list(written[key]) for key in ('mean', 'std') if written.get(key) is not None}


def preference(place: str) -> tuple[int, int]:
    """Return the rank of a network in a file, by the place of its tensors; the least is taken."""
    return min([i for i, x in enumerate(PREFERRED) if x in place], default=len(PREFERRED)), len(place)


class Vit(NamedTuple):
    """A plain Vision Transformer in a file: the place of its tensors, and these by timm's names."""

    place: str
    tensors: dict[str, Tensor]


def vit_of(content: Any) -> Vit | None:
    """Find a plain Vision Transformer by the names of timm or of torchvision; None: there is none."""
    tensors = flat_tensors(content)
    for mark, theirs in (('patch_embed.proj.weight', False), ('conv_proj.weight', True)):
        found = [name.removesuffix(mark) for name in tensors if name.endswith(mark)]
        if not found:
            continue
        place = min(found, key=preference)
        own = {name: x for name, x in below(tensors, place).items() if not name.startswith(CLASSIFIERS)}
        if theirs:
            own = {
                name: x for name, x in own.items() if any(compile_pattern(rule.theirs).fullmatch(name) for rule in VIT)
            }
            own = rename_in(own, VIT, ())[0]
        return Vit(place, own) if vit_config(own, 0) is not None else None
    return None


def known_heads(content: Any, said: Said | None) -> int | None:
    """Return the number of heads that a file tells, itself or as one of MoCo v3 or DINO; None: it does not."""
    if said is not None:
        return cast(int | None, (said.backbone.get('model_args') or {}).get('num_heads'))
    vit = vit_of(content)
    if vit is None or not isinstance(content, Mapping):
        return None
    if 'base_encoder' in vit.place:
        return MOCO_V3.get(str(content.get('arch')))
    if {'student', 'teacher', 'dino_loss'} <= content.keys():
        return DINO.get(len(vit.tensors['norm.weight']))
    return None


def no_heads(source: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the message for a Vision Transformer (tensors by timm\'s names) whose heads nothing tells."""
    width = len(tensors['norm.weight'])
    return (
        f'{source} is a Vision Transformer of width {width}, and does not say how many heads it has: shapes do not '
        f'show it. Name the network by --backbone timm:NAME, as timm:vit_small_patch16_224 (6 heads), or give the '
        f'number by --backbone torchvision:VisionTransformer,num_heads={max(width // 64, 1)}. That is the number of '
        'ViTs of DeiT and DINO; MoCo v3 has 12 at width 384.'
    )
