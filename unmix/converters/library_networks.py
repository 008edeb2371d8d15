"""Backbones that are networks of timm or torchvision: their names there, and how users of the library build them."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from unmix.converters.rules import Rule, rename_in, rename_out

PREFIX = 'backbone.network.'
LIBRARIES = {'TIMMBackbone': 'timm', 'TorchVisionBackbone': 'torchvision'}
TYPES = {library: kind for kind, library in LIBRARIES.items()}
# A Vision Transformer in timm (ours) and in torchvision (theirs).
VIT = (
    Rule('cls_token', 'class_token'),
    Rule('pos_embed', 'encoder.pos_embedding'),
    Rule('patch_embed.proj.*', 'conv_proj.*'),
    Rule('blocks.#.norm1.*', 'encoder.layers.encoder_layer_#.ln_1.*'),
    Rule('blocks.#.attn.qkv.*', 'encoder.layers.encoder_layer_#.self_attention.in_proj_*'),
    Rule('blocks.#.attn.proj.*', 'encoder.layers.encoder_layer_#.self_attention.out_proj.*'),
    Rule('blocks.#.norm2.*', 'encoder.layers.encoder_layer_#.ln_2.*'),
    Rule('blocks.#.mlp.fc1.*', 'encoder.layers.encoder_layer_#.mlp.0.*'),
    Rule('blocks.#.mlp.fc2.*', 'encoder.layers.encoder_layer_#.mlp.3.*'),
    Rule('norm.*', 'encoder.ln.*'),
)
# What a library's file may have beside the backbone.
CLASSIFIERS = ('head.', 'heads.', 'fc.', 'classifier.', 'head_dist.', 'last_linear.', 'fc_norm.')


def library_of(config: Mapping[str, Any]) -> str | None:
    """Return the library whose network a backbone is, by its config; None for networks of this package."""
    return LIBRARIES.get(config['type'])


def side_of(config: Mapping[str, Any], backbone: Any) -> int:
    """Return a side of images that a backbone takes."""
    return 64 if library_of(config) is None else config.get('img_size') or backbone.native_size()


def vit_config(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return the config of a Vision Transformer with these tensors, by timm's names; None if they are of another kind.

    Such are the files of DeiT, DINO and MoCo v3. The number of heads does not show in shapes: each has 64 dimensions,
    as in all published plain ones.
    """
    needed = {'cls_token', 'pos_embed', 'patch_embed.proj.weight', 'blocks.0.mlp.fc1.weight', 'norm.weight'}
    if not needed <= state.keys() or rename_out(state, VIT)[1]:
        return None
    width, channels, patch, _ = state['patch_embed.proj.weight'].shape
    args = dict(
        patch_size=patch,
        num_layers=1 + max(int(name.split('.')[1]) for name in state if name.startswith('blocks.')),
        num_heads=max(width // 64, 1),
        hidden_dim=width,
        mlp_dim=len(state['blocks.0.mlp.fc1.weight']),
    )
    side = patch * math.isqrt(state['pos_embed'].shape[1] - 1)
    config = dict(type='TorchVisionBackbone', model_name='VisionTransformer', img_size=side, model_args=args)
    return config | (dict(in_channels=channels) if channels != 3 else {})


def to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a Vision Transformer by torchvision's names, given timm's."""
    return rename_out(state, VIT)[0]


class Recipe:
    """How users of a library build the network of a backbone, without this package.

    Args:
        library: ``'timm'`` or ``'torchvision'``.
        config: Of the backbone.
        backbone: The backbone.

    Attributes:
        name: Of the network there.
        args: Of the function that builds it there.

    Raises:
        ValueError: If the library has no such network.
    """

    def __init__(self, library: str, config: Mapping[str, Any], backbone: Any) -> None:
        self.library, self.own = library, library_of(config) == library
        network = backbone.network
        channels = config.get('in_channels', 3)
        if self.own:
            self.name, self.args = config['model_name'], dict(config.get('model_args') or {})
            key = backbone.size_key
            self.args |= {} if config.get('img_size') is None else {key: config['img_size']}
        else:
            self.name, self.args = self._vit(network, config)
        if library == 'timm':
            self.args |= {} if channels == 3 else dict(in_chans=channels)
            self.args |= dict(dynamic_img_size=True) if config.get('dynamic_img_size') and self.own else {}
        elif channels != 3:
            raise ValueError(
                f'torchvision has no network for this backbone: in_channels is {channels}, not 3. Write it as .onnx, '
                'or for timm. Nothing was written.'
            )

    def _vit(self, network: Any, config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        state = network.state_dict()
        timm_names = (
            state if self.library == 'torchvision' else rename_in(state, VIT, ())[0] if _is_vit(network) else {}
        )
        vit = vit_config(timm_names)
        if vit is None:
            raise ValueError(
                f'{self.library} has no network for this backbone: {config["model_name"]} is one of '
                f'{library_of(config)}. Export it for {library_of(config)}, or as .onnx. Nothing was written.'
            )
        args, side = vit['model_args'], vit['img_size']
        blocks = network.encoder.layers if _is_vit(network) else network.blocks
        attention = blocks[0].self_attention if _is_vit(network) else blocks[0].attn
        heads = attention.num_heads
        if self.library == 'torchvision':
            return 'VisionTransformer', dict(args, num_heads=heads, image_size=side)
        return 'vit_base_patch16_224', dict(
            img_size=side,
            patch_size=args['patch_size'],
            embed_dim=args['hidden_dim'],
            depth=args['num_layers'],
            num_heads=heads,
            mlp_ratio=args['mlp_dim'] / args['hidden_dim'],
        )

    def tensors(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a backbone, with the names of this package, by those of the library."""
        own = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
        if self.own:
            return own
        return to_torchvision(own) if self.library == 'torchvision' else rename_in(own, VIT, ())[0]

    def load(self, path: Path) -> Callable[[Tensor], Tensor]:
        """Load a file strictly into the library's own network, in float64; it returns features (N, D)."""
        network: nn.Module
        if self.library == 'timm':
            import timm

            network = timm.create_model(self.name, num_classes=0, checkpoint_path=str(path), **self.args)
            return network.double().eval()
        if self.name == 'VisionTransformer':
            network = VisionTransformer(**self.args)
        else:
            network = torchvision.models.get_model(self.name, weights=None, **self.args)
        remove_classifier(network)
        network.load_state_dict(read_tensors(path))
        return network.double().eval()

    def __str__(self) -> str:
        args = ''.join(f', {key}={value!r}' for key, value in self.args.items())
        if self.library == 'timm':
            return f'timm.create_model({self.name!r}, num_classes=0{args})'
        if self.name == 'VisionTransformer':
            return f'torchvision.models.VisionTransformer({args[2:]})'
        return f'torchvision.models.get_model({self.name!r}{args})'


def _is_vit(network: nn.Module) -> bool:
    return isinstance(network, VisionTransformer)


def remove_classifier(network: nn.Module) -> None:
    """Replace the classifier of a network of torchvision, its last linear layer, by an identity."""
    if _is_vit(network):
        network.heads = nn.Identity()
        return
    *_, last = (name for name, module in network.named_modules() if isinstance(module, nn.Linear))
    parent, _, child = last.rpartition('.')
    setattr(network.get_submodule(parent), child, nn.Identity())


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict of torch.save or safetensors, as users do."""
    if path.suffix == '.safetensors':
        from safetensors.torch import load_file

        return load_file(path)
    load = partial(torch.load, map_location='cpu', weights_only=True)
    found: dict[str, Tensor] = load(path)
    return found
