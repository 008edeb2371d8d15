"""Weights that a training starts from, as they fit the network of the training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from unmix.checkpoint.save import save_checkpoint
from unmix.converters.library_networks import library_of, side_of
from unmix.converters.networks import stem_settings
from unmix.converters.proof import TOLERANCE, Proof
from unmix.models.backbones.torchvision_backbone import resized_positions
from unmix.registry import MODELS
from unmix.utils.matching import check_match

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
