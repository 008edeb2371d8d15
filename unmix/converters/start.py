"""Weights that a training starts from: of timm, of torchvision, or of a file of any code."""

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
from unmix.converters.inward import interpret
from unmix.converters.libraries import missing
from unmix.converters.library_networks import (
    CLASSIFIERS,
    TYPES,
    Recipe,
    library_of,
    remove_classifier,
    side_of,
    to_torchvision,
    vit_config,
)
from unmix.converters.networks import below, build, resnet_config
from unmix.converters.proof import Proof, compare
from unmix.models.backbones.timm_backbone import import_timm
from unmix.models.backbones.torchvision_backbone import resized_positions
from unmix.registry import MODELS
from unmix.utils.matching import check_match, flat_tensors, tensors_of

# Which network of a file with several is taken: the teacher of DINO, the encoder of MoCo v3.
PREFERRED = ('teacher', 'base_encoder')
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
    """Return the config of a backbone named ``timm:NAME`` or ``torchvision:NAME``, of ResNets that of this package."""
    library, _, own = name.partition(':')
    return dict(type=TYPES[library], model_name=own.partition('.')[0])


def read_start(source: str, network: str | None = None) -> Start:
    """Read the weights that a training starts from, and prove that their network gives the same outputs here.

    Args:
        source: ``timm:NAME``, ``torchvision:NAME``, or a checkpoint of any code of ``unmix convert``, a run, or a
            file of timm's or torchvision's names.
        network: Of a file, if its tensors do not tell: ``timm:NAME`` or ``torchvision:NAME``.

    Raises:
        ConnectionError: If the weights cannot be downloaded.
        FileNotFoundError: If there is no such file.
        ImportError: If timm is needed and missing.
        ValueError: If there is no such network, the file is of another one, or outputs differ.
    """
    if is_library(source):
        return _of_library(source)
    path = checkpoint_of(source)
    if not path.is_file():
        raise FileNotFoundError(
            f'--from is {source!r}, which is no file. Give a checkpoint, a run, timm:NAME or torchvision:NAME.'
        )
    content = read(path)
    if network is not None and is_library(network):
        return _of_named(content, str(path), network)
    try:
        found = interpret(content, str(path))
    except ValueError as error:
        vit = _of_vit(content, str(path))
        if vit is None:
            raise ValueError(
                f'{error} If it is of a network of timm or torchvision, name that by --backbone timm:NAME or '
                'torchvision:NAME.'
            ) from error
        return vit
    state = below(found.state, 'backbone.')
    return Start(str(path), found.model['backbone'], state, _written_statistics(content), found.proofs)


def _written_statistics(content: Any) -> dict[str, Any]:
    model = (content.get('meta') or {}).get('model') or {} if isinstance(content, Mapping) else {}
    written = model.get('data_preprocessor') or {} if isinstance(model, Mapping) else {}
    return {key: list(written[key]) for key in ('mean', 'std') if written.get(key) is not None}


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
        place = f'https://huggingface.co/{cfg.hf_hub_id}' if cfg.hf_hub_id else cfg.url
        raise ConnectionError(
            f'--from timm:{name}: timm cannot load its weights ({type(error).__name__}: {str(error).splitlines()[0]}). '
            f'Without a network: download model.safetensors from {place} elsewhere, and give --from model.safetensors '
            f'--backbone timm:{name.partition(".")[0]}.'
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
    config, state, proof = _ours(library, name.partition('.')[0], fetched.network, source)
    return Start(source, config, state, fetched.statistics, (proof,))


def _ours(library: str, name: str, theirs: nn.Module, source: str) -> tuple[dict[str, Any], dict[str, Tensor], Proof]:
    """Return config and tensors of the backbone that is a library's network, with the proof.

    That is this package's ResNet, if it gives the same outputs.
    """
    found = {key: x.detach().clone() for key, x in theirs.state_dict().items()}
    copied = theirs.double().eval()
    try:
        config = resnet_config(found, ('imagenet',))
        network = build(config, found, source)
        return (
            config,
            found,
            compare(network, copied, config.get('in_channels', 3), f'the network of {source} there, and here', source),
        )
    except ValueError:
        config = library_config(f'{library}:{name}')
    backbone = _built(config, found)
    state = {f'network.{key}': tensor for key, tensor in found.items()}
    check_match(backbone.state_dict(), state, source)
    backbone.load_state_dict(state)
    side = side_of(config, backbone)
    proof = compare(
        backbone, copied, backbone.in_channels, f'the network of {source} there, and here', source, size=side
    )
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


def _of_named(content: Any, source: str, network: str) -> Start:
    """Read a file of a library's names, whose network the user has named."""
    library, _, name = network.partition(':')
    if library == 'timm':
        import_timm()
    config = library_config(network)
    own = MODELS.build(dict(config)).network.state_dict()
    found = tensors_of(content if 'state_dict' in content else dict(content), source, own)
    found = {key: x for key, x in found.items() if key in own or not key.startswith(CLASSIFIERS)}
    backbone = _built(config, found)
    check_match(backbone.network.state_dict(), found, source)
    backbone.network.load_state_dict(found)
    ours, state, proof = _ours(library, name, backbone.network, source)
    return Start(source, ours | {k: v for k, v in config.items() if k == 'img_size'}, state, {}, (proof,))


def _of_vit(content: Any, source: str) -> Start | None:
    """Read a plain Vision Transformer by timm's names, as in files of DeiT, DINO and MoCo v3; None if it is none."""
    tensors, mark = flat_tensors(content), 'patch_embed.proj.weight'
    places = [name.removesuffix(mark) for name in tensors if name.endswith(mark)]
    if not places:
        return None
    place = min(
        places, key=lambda place: min([i for i, x in enumerate(PREFERRED) if x in place], default=len(PREFERRED))
    )
    found = {name: x for name, x in below(tensors, place).items() if not name.startswith(CLASSIFIERS)}
    config = vit_config(found)
    if config is None:
        return None
    state = {f'network.{name}': x for name, x in to_torchvision(found).items()}
    backbone: Any = MODELS.build(config)
    check_match(backbone.state_dict(), state, source)
    backbone.load_state_dict(state)
    if reason := missing('timm'):
        proof = Proof(f'{source}: {reason}; names and shapes fit')
    else:
        recipe = Recipe('timm', config, backbone)
        theirs: nn.Module = import_timm().create_model(recipe.name, num_classes=0, **recipe.args)
        theirs.load_state_dict(found)
        subject = f'{source} in {recipe} and here'
        proof = compare(
            backbone, theirs.double().eval(), backbone.in_channels, subject, source, size=side_of(config, backbone)
        )
    return Start(source, config, state, {}, (proof,))


def check_network(start: Start, config: Mapping[str, Any], key: str = 'model.backbone') -> None:
    """Compare the network of the weights with the one of a training.

    Raises:
        ValueError: If they differ.
    """
    for name, default in SETTINGS.items():
        given, own = start.backbone.get(name, default), config.get(name, default)
        if given != own and None not in (given, own):
            raise ValueError(
                f'--from {start.source} has the weights of another network: its {name} is {given}, and that of {key} '
                f'is {own}. Leave out {key}, or give weights of that network.'
            )
        if given != own and name in ('depth', 'model_name'):
            raise ValueError(f'--from {start.source} has the weights of a {start.backbone["type"]}, not of {own}.')


def fit(start: Start, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the backbone of a training; position embeddings have the grid of its images.

    Args:
        start: The weights.
        config: Of the backbone.

    Raises:
        ValueError: If the network is another one; it names the tensors.
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
    return state


def write_start(start: Start, config: Mapping[str, Any], path: Path) -> None:
    """Write the weights as a checkpoint of a backbone, which ``init_cfg`` loads at the start of a training.

    Raises:
        ValueError: As for :func:`fit`.
    """
    state = {f'backbone.{name}': tensor for name, tensor in fit(start, config).items()}
    model = dict(backbone={key: value for key, value in config.items() if key != 'init_cfg'})
    content = dict(state_dict=state, meta=dict(source=start.source, model=cast(dict[str, Any], model)))
    save_checkpoint(content, str(path))
