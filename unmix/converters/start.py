"""Weights that a training starts from: of timm, of torchvision, or of a file of any code."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from unmix.checkpoint.of_run import checkpoint_of
from unmix.converters.containers import read
from unmix.converters.family import UnknownFamily
from unmix.converters.fetch import check_name, fetch
from unmix.converters.fit import Start, check_network
from unmix.converters.inward import interpret, written_backbone
from unmix.converters.libraries import missing
from unmix.converters.library_names import (
    check_names,
    completed,
    entry_of,
    listed,
    own_names,
    without_classifier,
)
from unmix.converters.library_networks import (
    PLAIN_VIT,
    TYPES,
    Recipe,
    heads_of,
    library_backbone,
    library_of,
    side_of,
    to_torchvision,
    vit_config,
)
from unmix.converters.networks import below, build, resnet_config
from unmix.converters.outward import own_pool
from unmix.converters.proof import Proof, compare
from unmix.converters.told import (
    WEIGHTS,
    Said,
    Vit,
    known_heads,
    no_heads,
    said_of,
    vit_of,
    written_statistics,
)
from unmix.models.backbones.timm_backbone import import_timm
from unmix.registry import MODELS
from unmix.utils.matching import check_match

# Arguments of timm's plain ViT that shapes show, and the heads.
PLAIN_ARGS = {'patch_size', 'embed_dim', 'depth', 'num_heads', 'mlp_ratio'}


def is_library(name: str) -> bool:
    """Return whether a name is that of a library's network, ``timm:NAME`` or ``torchvision:NAME``."""
    return name.partition(':')[0] in TYPES and ':' in name


def library_config(name: str) -> dict[str, Any]:
    """Return the config of a backbone named ``timm:NAME`` or ``torchvision:NAME``.

    Arguments of the library's function can follow: ``timm:vit_small_patch16_224,num_heads=12``.

    Raises:
        ValueError: If the arguments cannot be read.
    """
    library, _, own = name.partition(':')
    own, _, text = own.partition(',')
    try:
        call: Any = ast.parse(f'f({text})', mode='eval').body
        args = {
            str(x.arg): x.value.id if isinstance(x.value, ast.Name) else ast.literal_eval(x.value)
            for x in call.keywords
        }
        if call.args or 'None' in args:
            raise ValueError('expected KEY=VALUE')
    except (SyntaxError, ValueError, AttributeError) as error:
        raise ValueError(
            f'{name!r}: what follows the comma is not read ({error}). Give arguments of {library} as KEY=VALUE, as in '
            'timm:vit_small_patch16_224,num_heads=12.'
        ) from error
    return library_backbone(library, own.partition('.')[0], args)


def read_start(source: str, network: str | None = None) -> Start:
    """Read the weights that a training starts from, and prove that their network gives the same outputs here.

    Args:
        source: ``timm:NAME``, ``torchvision:NAME``, or a checkpoint of any code of ``unmix convert``, a run, or a
            file of timm's or torchvision's names, or a folder with such a file and timm's ``config.json``.
        network: Of a file, if it does not tell: ``timm:NAME`` or ``torchvision:NAME``, as :func:`library_config` reads
            them.

    Raises:
        ConnectionError: If the weights cannot be downloaded.
        FileNotFoundError: If there is no such file.
        ImportError: If timm is needed and missing.
        ValueError: If there is no such network, the file is of another one or does not tell its number of heads, or
            outputs differ.
    """
    if is_library(source):
        return _of_library(source)
    beside = Path(source).expanduser()
    folder = [beside / name for name in WEIGHTS if (beside / 'config.json').is_file() and (beside / name).is_file()]
    path = folder[0] if folder else checkpoint_of(source)
    if not path.is_file():
        raise FileNotFoundError(
            f'--from is {source!r}, which is no file. Give a checkpoint, a run, timm:NAME or torchvision:NAME.'
        )
    content = read(path)
    said = said_of(content, path)
    if network is not None and is_library(network):
        return _of_named(content, path, network, said)
    try:
        found = interpret(content, str(path))
    except ValueError as error:
        if said is not None:
            return _of_said(content, str(path), said)
        if (vit := vit_of(content)) is not None:
            heads = known_heads(content, None)
            if heads is None:
                raise ValueError(no_heads(str(path), vit.tensors)) from error
            return _of_vit(vit, str(path), heads)
        way = (
            'If it is of a network of timm or torchvision, name that by --backbone timm:NAME or torchvision:NAME, in '
            f"Python by get_model({str(path)!r}, backbone='timm:NAME')."
        )
        if isinstance(error, UnknownFamily) and (theirs := entry_of(content).tensors):
            error = UnknownFamily(
                f'{path} has {len(theirs)} tensors, {listed(theirs)}: names of no code that is known (unmix convert '
                '--help lists the codes), and of no plain Vision Transformer.'
            )
        raise ValueError(f'{error} {way}') from error
    state = below(found.state, 'backbone.')
    statistics = written_statistics(content) or (said.statistics if said is not None else {})
    return Start(str(path), found.model['backbone'], state, statistics, found.proofs)


def _of_library(source: str) -> Start:
    library, _, name = source.partition(':')
    check_name(library, name)
    fetched = fetch(library, name)
    subject = f'the network of {source} there, and here'
    config, state, proof = _ours(library_config(source), fetched.network, source, subject)
    return Start(source, config, state, fetched.statistics, (proof,))


def _ours(
    config: dict[str, Any], theirs: nn.Module, source: str, subject: str
) -> tuple[dict[str, Any], dict[str, Tensor], Proof]:
    """Return config and tensors of the backbone that is a library's network, with the proof.

    That is this package's ResNet, if it gives the same outputs.
    """
    found = {key: x.detach().clone() for key, x in theirs.state_dict().items()}
    copied = theirs.double().eval()
    try:
        resnet = resnet_config(found, ('imagenet',))
        network = build(resnet, found, source)
        return resnet, found, compare(network, copied, resnet.get('in_channels', 3), subject, source)
    except ValueError:
        config = dict(config)
    backbone = _built(config, found)
    state = {f'network.{key}': tensor for key, tensor in found.items()}
    check_match(backbone.state_dict(), state, source)
    backbone.load_state_dict(state)
    proof = compare(own_pool(backbone), copied, backbone.in_channels, subject, source, size=side_of(config, backbone))
    return config, state, proof


def _built(config: dict[str, Any], found: Mapping[str, Tensor]) -> Any:
    """Build a library's network; ``config`` gets the number of channels and the size that its tensors have."""
    backbone: Any = MODELS.build(config)
    embedding, place = backbone.patch_embedding(), backbone.positions()
    stem = next((x for x in found.values() if x.ndim == 4), None)
    if stem is not None and stem.shape[1] in (1, 3) and stem.shape[1] != backbone.in_channels:
        config['in_channels'] = stem.shape[1]
    if place is not None and embedding is not None:
        module, name, extra = place
        key = next(key for key, x in backbone.network.named_parameters() if x is getattr(module, name))
        if key in found and found[key].shape != getattr(module, name).shape:
            config['img_size'] = backbone.patches() * round((found[key].shape[1] - extra) ** 0.5)
    return MODELS.build(config) if {'in_channels', 'img_size'} & config.keys() else backbone


def _of_named(content: Any, path: Path, network: str, said: Said | None) -> Start:
    """Read a file whose network the user has named."""
    source, config = str(path), library_config(network)
    if library_of(written_backbone(content) or dict(type=None)) is not None:
        found = interpret(content, source)
        state = below(found.state, 'backbone.')
        start = Start(source, found.model['backbone'], state, written_statistics(content), found.proofs)
        check_network(start, start.backbone | config, f'--backbone {network}')
        return start
    statistics = said.statistics if said is not None else written_statistics(content)
    start = _of_config(content, source, config, f'{source} in the network that --backbone names, {network}', statistics)
    heads = heads_of(getattr(MODELS.build(dict(start.backbone)), 'network', None))
    known = known_heads(content, said)
    if heads is not None and known is not None and heads != known:
        raise ValueError(
            f'--backbone {network} has {heads} heads, and {source} is of a network with {known}. Give --backbone '
            f'{network.partition(",")[0]},num_heads={known}.'
        )
    return start


def _of_config(content: Any, source: str, config: dict[str, Any], subject: str, statistics: dict[str, Any]) -> Start:
    """Read a file whose network is known."""
    if config['type'] == TYPES['timm']:
        import_timm()
    vit = vit_of(content) if config['model_name'].lower().startswith('vi') else None
    if vit is not None and config['model_name'] == 'VisionTransformer':
        args = config.get('model_args') or {}
        if 'num_heads' not in args:
            raise ValueError(no_heads(source, vit.tensors))
        whole = vit_config(vit.tensors, args['num_heads'])
        config = {
            **cast(dict[str, Any], whole),
            **config,
            'model_args': cast(dict[str, Any], whole)['model_args'] | args,
        }
    own = MODELS.build(dict(config)).network.state_dict()
    if vit is not None and config['type'] == TYPES['torchvision']:
        found = without_classifier(to_torchvision(vit.tensors), own)
    else:
        found = own_names(content, own)
    config = dict(config)
    backbone = _built(config, found)
    found = completed(found, backbone.network)
    check_names(found, content, source, config, backbone)
    backbone.network.load_state_dict(found)
    ours, state, proof = _ours(config, backbone.network, source, f'{subject}, and here')
    return Start(source, ours, state, statistics, (proof,))


def _of_said(content: Any, source: str, said: Said) -> Start:
    """Read a file that says what its network is, or has that beside it."""
    args, vit = said.backbone.get('model_args') or {}, vit_of(content)
    plain = said.backbone['model_name'] == PLAIN_VIT and args.keys() <= PLAIN_ARGS
    if vit is not None and plain and 'num_heads' in args:
        return _of_vit(vit, source, args['num_heads'], said)
    return _of_config(content, source, said.backbone, f'{source} in the network of {said.place}', said.statistics)


def _of_vit(vit: Vit, source: str, heads: int, said: Said | None = None) -> Start:
    """Read a plain Vision Transformer, as in files of DeiT, DINO and MoCo v3."""
    config = cast(dict[str, Any], vit_config(vit.tensors, heads))
    if said is not None and said.backbone.get('pool') is not None:
        config['pool'] = said.backbone['pool']
    state = {f'network.{name}': x for name, x in to_torchvision(vit.tensors).items()}
    backbone: Any = MODELS.build(config)
    check_match(backbone.state_dict(), state, source)
    backbone.load_state_dict(state)
    if reason := missing('timm'):
        proof = Proof(f'{source}: {reason}; names and shapes fit')
    else:
        recipe = Recipe('timm', config, backbone)
        theirs: nn.Module = import_timm().create_model(recipe.name, num_classes=0, **recipe.args)
        theirs.load_state_dict(vit.tensors)
        subject = f'{source} in {recipe} and here'
        proof = compare(
            backbone, theirs.double().eval(), backbone.in_channels, subject, source, size=side_of(config, backbone)
        )
    return Start(source, config, state, {} if said is None else said.statistics, (proof,))
