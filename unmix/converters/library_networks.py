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
PLAIN_VIT = 'vit_base_patch16_224'  # timm's function that builds plain ones of any size
# What a library's file may have beside the backbone.
CLASSIFIERS = ('head.', 'heads.', 'fc.', 'classifier.', 'head_dist.', 'last_linear.', 'fc_norm.')


def library_of(config: Mapping[str, Any]) -> str | None:
    """Return the library whose network a backbone is, by its config; None for networks of this package."""
    return LIBRARIES.get(config['type'])


def side_of(config: Mapping[str, Any], backbone: Any) -> int:
    """Return a side of images that a backbone takes."""
    return 64 if library_of(config) is None else config.get('img_size') or backbone.native_size()


def library_backbone(library: str, name: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a backbone that is a library's network, by the arguments that build it there.

    Raises:
        ValueError: If it pools in a way that no backbone here does.
    """
    args = dict(args)
    keys = dict(in_chans='in_channels', img_size='img_size', image_size='img_size', dynamic_img_size='dynamic_img_size')
    config = dict(type=TYPES[library], model_name=name)
    config |= {ours: args.pop(theirs) for theirs, ours in keys.items() if theirs in args}
    if 'global_pool' in args:
        pool, norm = args.pop('global_pool'), args.pop('fc_norm', None)
        found = 'token' if pool == 'token' and not norm else 'mean' if pool == 'avg' and norm is False else None
        if found is None:
            raise ValueError(
                f'{library}:{name} with global_pool={pool!r} and fc_norm={norm!r} is no backbone here. Those with '
                "global_pool='token', and with global_pool='avg' and fc_norm=False, are."
            )
        config['pool'] = found
    return config | (dict(model_args=args) if args else {})


def vit_config(state: Mapping[str, Tensor], heads: int) -> dict[str, Any] | None:
    """Return the config of a Vision Transformer with these tensors, by timm's names; None if they are of another kind.

    Such are the files of DeiT, DINO and MoCo v3. Shapes do not show the number of heads: that of a width of 384 is 6 in
    DeiT and DINO, and 12 in MoCo v3.
    """
    needed = {'cls_token', 'pos_embed', 'patch_embed.proj.weight', 'blocks.0.mlp.fc1.weight', 'norm.weight'}
    if not needed <= state.keys() or rename_out(state, VIT)[1]:
        return None
    width, channels, patch, _ = state['patch_embed.proj.weight'].shape
    args = dict(
        patch_size=patch,
        num_layers=1 + max(int(name.split('.')[1]) for name in state if name.startswith('blocks.')),
        num_heads=heads,
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
        self.pool: str | None = config.get('pool')
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
            if self.pool == 'mean' and _has_last_norm(network):
                self.args |= dict(global_pool='avg', fc_norm=False)  # the norm stays before the pooling
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
        vit = vit_config(timm_names, heads_of(network) or 0)
        if vit is None:
            raise ValueError(
                f'{self.library} has no network for this backbone: {config["model_name"]} is one of '
                f'{library_of(config)}. Export it for {library_of(config)}, or as .onnx. Nothing was written.'
            )
        args, side = vit['model_args'], vit['img_size']
        if self.library == 'torchvision':
            return 'VisionTransformer', dict(args, image_size=side)
        return PLAIN_VIT, dict(
            img_size=side,
            patch_size=args['patch_size'],
            embed_dim=args['hidden_dim'],
            depth=args['num_layers'],
            num_heads=args['num_heads'],
            mlp_ratio=args['mlp_dim'] / args['hidden_dim'],
        )

    def config(self) -> dict[str, Any]:
        """Return the config of the backbone that this network is here."""
        config = library_backbone(self.library, self.name, self.args)
        return config | (dict(pool=self.pool) if self.pool is not None else {})

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


def _has_last_norm(network: Any) -> bool:
    """Return whether a Vision Transformer of either library pools the class token after its last norm."""
    own = isinstance(getattr(network, 'norm', None), nn.LayerNorm) and getattr(network, 'global_pool', None) == 'token'
    return _is_vit(network) or (own and isinstance(getattr(network, 'fc_norm', None), nn.Identity))


def heads_of(network: Any) -> int | None:
    """Return the number of heads of a library's Vision Transformer; None for other networks."""
    blocks = network.encoder.layers if _is_vit(network) else getattr(network, 'blocks', ())
    first = next(iter(blocks), None)
    heads = getattr(getattr(first, 'self_attention' if _is_vit(network) else 'attn', None), 'num_heads', None)
    return heads if isinstance(heads, int) else None


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
