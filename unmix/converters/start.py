"""Weights that a training starts from: of timm, of torchvision, or of a file of any code."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torchvision
from torch import Tensor, nn

from unmix.checkpoint.of_run import checkpoint_of
from unmix.checkpoint.save import save_checkpoint
from unmix.config.check import suggest
from unmix.converters.containers import read
from unmix.converters.families import UnknownFamily
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
    remove_classifier,
    side_of,
    to_torchvision,
    vit_config,
)
from unmix.converters.networks import below, build, resnet_config, stem_settings
from unmix.converters.outward import own_pool
from unmix.converters.proof import TOLERANCE, Proof, compare
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
from unmix.models.backbones.torchvision_backbone import resized_positions
from unmix.registry import MODELS
from unmix.utils.matching import check_match

PLAIN_ARGS = {
    'patch_size',
    'embed_dim',
    'depth',
    'num_heads',
    'mlp_ratio',
}  # of timm's plain ViT that shapes show, and the heads
# Settings of a backbone that its weights do not fix: pooling, size, and what is for training only.
FREE = (
    'init_cfg',
    'img_size',
    'pool',
    'dynamic_img_size',
    'drop_path',
    'freeze_patch_embed',
    'fixed_positions',
    'channels_last',
    'num_splits',
    'zero_init_residual',
)
# Settings of a backbone that its weights fix, with their defaults.
SETTINGS = dict(type=None, model_name=None, depth=None, width=64, stem_width=None, stem=None, in_channels=3)


class Start(NamedTuple):
    """A backbone with weights.

    Attributes:
        source: What the user has named.
        backbone: Its config, at the size of images that the weights were trained with.
        state: Its tensors.
        statistics: ``mean`` and ``std`` of its images in units of 0 to 255; {} if they are not known.
        proofs: The comparisons with the network of the source.
    """

    source: str
    backbone: dict[str, Any]
    state: dict[str, Tensor]
    statistics: dict[str, Any]
    proofs: tuple[Proof, ...]


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
        if isinstance(error, UnknownFamily):
            theirs = entry_of(content).tensors
            error = UnknownFamily(
                f'{path} has {len(theirs)} tensors, {listed(theirs)}: names of no code that is known (unmix convert '
                '--help lists the codes), and of no plain Vision Transformer.'
            )
        raise ValueError(f'{error} {way}') from error
    state = below(found.state, 'backbone.')
    statistics = written_statistics(content) or (said.statistics if said is not None else {})
    return Start(str(path), found.model['backbone'], state, statistics, found.proofs)


class Fetched(NamedTuple):
    """A network of a library with its weights, without classifier, and the statistics of its images."""

    network: nn.Module
    statistics: dict[str, Any]


def fetch(library: str, name: str) -> Fetched:
    """Let a library build a network with its published weights, which it downloads or has.

    Raises:
        ConnectionError: If it cannot download them.
    """
    return _fetch_timm(name) if library == 'timm' else _fetch_torchvision(name)


def check_name(library: str, name: str) -> None:
    """Check that a library has a network, and weights of it.

    Raises:
        ImportError: If timm is missing.
        ValueError: If it has not.
    """
    if library == 'timm':
        timm = import_timm()
        listed, weights = timm.list_models(), timm.list_models(pretrained=True)
        found = name in weights or name in {model.partition('.')[0] for model in weights}
    else:
        listed = weights = torchvision.models.list_models(module=torchvision.models)
        found = name in listed
    if not found and name.partition('.')[0] not in listed:
        raise ValueError(f'{library}:{name}: {library} has no such network. {suggest(name, listed)}')
    if not found:
        raise ValueError(
            f'{library}:{name}: {library} has no such weights. timm.list_models(pretrained=True) lists them.'
        )


def _fetch_timm(name: str) -> Fetched:
    timm = import_timm()
    cfg = timm.get_pretrained_cfg(name)
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:
        model = name.partition('.')[0]
        way = f'download {cfg.url} elsewhere, and give --from FILE --backbone timm:{model}.'
        if cfg.hf_hub_id:
            way = (
                f'download config.json and model.safetensors from https://huggingface.co/{cfg.hf_hub_id} elsewhere, '
                f'and give their folder by --from. model.safetensors alone needs --backbone timm:{model}, and does '
                'not say mean and std.'
            )
        raise ConnectionError(
            f'--from timm:{name}: timm cannot load its weights ({type(error).__name__}: {str(error).splitlines()[0]}). '
            f'Without a network: {way}'
        ) from error
    statistics = {key: [255 * x for x in getattr(cfg, key)] for key in ('mean', 'std')}
    return Fetched(network, statistics)


def _fetch_torchvision(name: str) -> Fetched:
    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        network: nn.Module = torchvision.models.get_model(name, weights=weights)
    except Exception as error:
        folder = Path(torch.hub.get_dir(), 'checkpoints')
        raise ConnectionError(
            f'--from torchvision:{name}: torchvision cannot load its weights ({type(error).__name__}: {error}). '
            f'Without a network: download {weights.url} elsewhere, and put the file into {folder}, or give --from FILE '
            f'--backbone torchvision:{name}.'
        ) from error
    remove_classifier(network)
    transform = weights.transforms()
    return Fetched(network, {key: [255 * x for x in getattr(transform, key)] for key in ('mean', 'std')})


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


def check_network(start: Start, config: Mapping[str, Any], key: str = 'model.backbone') -> None:
    """Compare the network of the weights with the one of a training.

    Raises:
        ValueError: If they differ.
    """
    for name, (given, own) in _settings(start.backbone, config).items():
        if given != own and None not in (given, own):
            raise ValueError(
                f'--from {start.source} has the weights of another network: its {name} is {given}, and that of {key} '
                f'is {own}. Leave out {key}, or give weights of that network.'
            )
        if given != own and name in ('depth', 'model_name'):
            raise ValueError(f'--from {start.source} has the weights of a {start.backbone["type"]}, not of {own}.')


def _settings(start: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings of two backbones side by side: of a ResNet, of each branch, and arguments that both give."""

    def value(backbone: Mapping[str, Any], name: str, default: Any) -> Any:
        found = backbone.get(name, default)
        return stem_settings(found) if name == 'stem' and found is not None else found

    found = {name: (value(start, name, x), value(config, name, x)) for name, x in SETTINGS.items()}
    if 'stem' in found and found['stem'][0] != found['stem'][1]:
        found['stem'] = (start.get('stem'), config.get('stem'))
    given, own = start.get('model_args') or {}, config.get('model_args') or {}
    found |= {f'model_args.{name}': (given[name], own[name]) for name in sorted(given.keys() & own.keys())}
    if 'branch' in start and 'branch' in config:
        inner = _settings(start['branch'], config['branch'])
        found |= {f'branch.{name}': pair for name, pair in inner.items()}
        found |= dict(channels=(tuple(start.get('channels', (1, 2))), tuple(config.get('channels', (1, 2)))))
    return found


def _check_outputs(start: Start, config: Mapping[str, Any]) -> None:
    """Compare the outputs of the network of a training, with the weights, with those of the network they are of.

    It finds what shapes do not show and :func:`check_network` does not know, such as an activation. How features are
    pooled, and what is for training only, is no matter of the weights.

    Raises:
        ValueError: If they differ.
    """
    first, second = ({key: x for key, x in each.items() if key not in FREE} for each in (start.backbone, config))
    if first == second:
        return
    size = {key: x for key, x in start.backbone.items() if key == 'img_size' and x is not None}
    outputs = []
    for each in (first, second):
        backbone: Any = MODELS.build(each | size)
        backbone.load_state_dict(start.state)
        side = side_of(first | size, backbone)
        resnet = each.get('branch', each)
        channels = sum(each.get('channels', (1, 2))) if 'branch' in each else resnet.get('in_channels', 3)
        images = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        with torch.no_grad():
            outputs.append(backbone.double().eval()(images))
    difference = ((outputs[0] - outputs[1]).abs().max() / outputs[0].abs().max()).item()
    if not difference <= TOLERANCE[torch.float64]:
        other = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
        raise ValueError(
            f'--from {start.source} has the weights of another network: with them, model.backbone has outputs that '
            f'differ by {difference:.1e} of the largest one. The settings differ in {", ".join(sorted(other))}: '
            f'{ {key: first.get(key) for key in sorted(other)} } there, and '
            f'{ {key: second.get(key) for key in sorted(other)} } here. Make them equal, or leave out model.backbone.'
        )


def fit(start: Start, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the backbone of a training; position embeddings have the grid of its images.

    Args:
        start: The weights.
        config: Of the backbone.

    Raises:
        ValueError: If the network is another one; it names the tensors, or the settings by which outputs differ.
    """
    check_network(start, config)
    backbone: Any = MODELS.build({key: value for key, value in config.items() if key != 'init_cfg'})
    own, state = backbone.state_dict(), dict(start.state)
    place = backbone.positions() if library_of(config) is not None else None
    if place is not None:
        module, attribute, extra = place
        name = next(key for key, x in backbone.named_parameters() if x is getattr(module, attribute))
        if name in state and state[name].shape != own[name].shape:
            side = round((own[name].shape[1] - extra) ** 0.5)
            state[name] = resized_positions(state[name], (side, side), extra)
    check_match(own, state, f'--from {start.source}')
    _check_outputs(start, config)
    return state


def write_start(start: Start, config: Mapping[str, Any], path: Path) -> None:
    """Write the weights as a checkpoint of a backbone, which ``init_cfg`` loads at the start of a training.

    Raises:
        ValueError: As for :func:`fit`.
    """
    state = {f'backbone.{name}': tensor for name, tensor in fit(start, config).items()}
    model = dict(backbone={key: value for key, value in config.items() if key != 'init_cfg'})
    model |= dict(data_preprocessor=dict(start.statistics)) if start.statistics else {}
    content = dict(state_dict=state, meta=dict(source=start.source, model=cast(dict[str, Any], model)))
    save_checkpoint(content, str(path))
