"""Configs and networks of this package for the tensors of a checkpoint."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import unmix.models  # noqa: F401  registers the networks
from unmix.converters.family import Stem
from unmix.converters.library_networks import library_of
from unmix.models.backbones.resnet import ARCHITECTURES, STEMS
from unmix.registry import MODELS
from unmix.utils.matching import check_match

State = Mapping[str, Tensor]
HEADS = ('neck', 'predictor', 'head')


def below(state: State, prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix``; the prefix is removed from the names."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def stem_settings(stem: Stem) -> dict[str, Any]:
    """Return kernel size, stride, padding and max-pool of a stem, which is a name or a dict."""
    return dict(maxpool=False) | (STEMS[stem] if isinstance(stem, str) else stem)


def resnet_config(state: State, stems: Sequence[Stem]) -> dict[str, Any]:
    """Return the config of the ResNet that has these tensors, with the first of ``stems`` that fits their shapes.

    Raises:
        ValueError: If no ResNet of this package has them.
    """
    if 'conv1.weight' not in state or 'layer1.0.conv1.weight' not in state:
        raise ValueError(
            f'The checkpoint has no ResNet: expected conv1.weight and layer1.0.conv1.weight among '
            f'{", ".join(list(state)[:4]) or "no tensors"}, ...'
        )
    blocks: dict[int, set[int]] = {}
    for match in filter(None, (re.match(r'layer(\d+)\.(\d+)\.', name) for name in state)):
        blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    counts = tuple(len(blocks[i]) for i in sorted(blocks))
    expansion = 4 if 'layer1.0.conv3.weight' in state else 1
    known = {(block.expansion, blocks): depth for depth, (block, blocks) in ARCHITECTURES.items()}
    if (expansion, counts) not in known:
        raise ValueError(
            f'The checkpoint is of a ResNet with {counts} {"bottleneck" if expansion == 4 else "basic"} blocks; '
            f'backbone.depth is one of {sorted(ARCHITECTURES)}.'
        )
    conv, width = state['conv1.weight'], len(state['layer1.0.conv1.weight'])
    size = conv.shape[-1]
    stem = next((stem for stem in stems if stem_settings(stem)['kernel_size'] == size), None)
    if stem is None:
        raise ValueError(
            f'The first convolution is {size}x{size}; the stems of the family are {", ".join(map(str, stems))}. '
            'Give --stem.'
        )
    config = dict(type='ResNet', depth=known[expansion, counts], stem=stem)
    config |= dict(width=width) if width != 64 else {}
    config |= dict(stem_width=len(conv)) if len(conv) != width else {}
    return config | (dict(in_channels=conv.shape[1]) if conv.shape[1] != 3 else {})


def backbone_config(
    state: State, stems: Sequence[Stem], source: str = '', written: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the config of the backbone that has these tensors: ``ResNet`` or ``TwoBranch``, or a library's network.

    The latter is the one that is ``written`` in ``meta.model`` of a checkpoint: shapes do not show its name.

    Raises:
        ValueError: If no network of this package has them, or a library's is not written there.
    """
    if any(name.startswith('network.') for name in state):
        if written is None or library_of(written) is None:
            raise ValueError(
                f'{source} has a network of timm or torchvision, and no meta.model that says which. Give a checkpoint '
                'of a training, which has it.'
            )
        return {key: value for key, value in written.items() if key not in ('init_cfg', 'drop_path')}
    if 'l_to_ab.conv1.weight' not in state:
        return resnet_config(state, stems)
    branches = [resnet_config(below(state, f'{name}.'), stems) for name in ('l_to_ab', 'ab_to_l')]
    channels = tuple(branch.pop('in_channels', 3) for branch in branches)
    return dict(type='TwoBranch', branch=branches[0], channels=channels)


def resnets_of(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the configs of the one or two ResNets of a backbone, by their names."""
    if library_of(config) is not None:
        return {}
    if config['type'] == 'ResNet':
        return {'backbone': dict(config)}
    names = ('backbone.l_to_ab', 'backbone.ab_to_l')
    return {name: dict(config['branch'], in_channels=c) for name, c in zip(names, config['channels'], strict=True)}


def head_config(state: State) -> dict[str, Any] | None:
    """Return the config of the projector, predictor or classifier that has these tensors, or None."""
    if 'necks.0.fc.weight' in state:
        return dict(type='TwoBranchNeck', neck=head_config(below(state, 'necks.0.')))
    if 'fc.weight' in state:
        out_dim, in_dim = state['fc.weight'].shape
        return dict(type='LinearNeck', in_dim=in_dim, out_dim=out_dim, bias='fc.bias' in state)
    weights = {int(name.split('.')[1]): x for name, x in state.items() if re.fullmatch(r'layers\.\d+\.weight', name)}
    linear = sorted(i for i, weight in weights.items() if weight.ndim == 2)
    if len(linear) < 2:
        return None
    first, last = weights[linear[0]], weights[linear[-1]]
    return dict(
        type='MLPNeck',
        in_dim=first.shape[1],
        hidden_dim=first.shape[0],
        out_dim=last.shape[0],
        num_layers=len(linear),
        norm='layers.1.running_mean' in state,
        hidden_bias='layers.0.bias' in state,
        last_norm=f'layers.{linear[-1] + 1}.running_mean' in state,
        last_affine=f'layers.{linear[-1] + 1}.weight' in state,
    )


def build(config: dict[str, Any], state: State, source: str) -> nn.Module:
    """Build a network that shares the tensors of ``state``.

    Raises:
        ValueError: If the network has other tensors.
    """
    library = library_of(config) is not None
    with torch.device('cpu' if library else 'meta'):  # buffers of a library that no state dict has need their values
        network: nn.Module = MODELS.build(config)
    own = network.state_dict()
    counters = {name: torch.tensor(0) for name in own if name.endswith('num_batches_tracked')}  # not in PyTorch < 0.4.1
    state = counters | dict(state)
    check_match(own, state, source)
    network.load_state_dict(state, assign=not library)
    return network.eval()


def build_encoder(
    state: State, prefix: str, stems: Sequence[Stem], source: str, written: Mapping[str, Any] | None = None
) -> tuple[nn.ModuleDict, dict[str, Any], dict[str, str]]:
    """Build the backbone, projector, predictor and classifier of the tensors whose names begin with ``prefix``.

    Returns:
        The networks by name, their configs, and the names of tensors that fit no network here, with the reason.

    Raises:
        ValueError: If no backbone of this package has the tensors.
    """
    tensors = below(state, f'{prefix}backbone.')
    configs = dict(backbone=backbone_config(tensors, stems, source, written))
    networks = nn.ModuleDict({'backbone': build(configs['backbone'], tensors, source)})
    dropped: dict[str, str] = {}
    for name in HEADS:
        tensors = below(state, f'{prefix}{name}.')
        if not tensors or (name == 'head' and set(tensors) != {'fc.weight', 'fc.bias'}):
            continue
        config = head_config(tensors)
        try:
            if config is None:
                raise ValueError('it has fewer than two linear layers')
            networks[name] = build(config, tensors, source)
            configs[name] = config
        except ValueError as error:
            reason = f'no {name} of this package has these layers ({str(error).partition(": ")[2] or error})'
            dropped |= {f'{prefix}{name}.{key}': reason for key in tensors}
    return networks, configs, dropped
