"""Networks of torchvision."""

from functools import cache
from typing import Any, ClassVar

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import SwinTransformer, VisionTransformer
from torchvision.ops import StochasticDepth

from unmix.mixing.patches import KeptPatches
from unmix.models.backbones.library import LibraryBackbone, check_patches
from unmix.registry import MODELS

AUXILIARY = ('googlenet', 'inception_v3')  # have further classifiers, which only their own training needs
# What torchvision's class has no default for: a ViT-Small.
VIT = dict(image_size=224, patch_size=16, num_layers=12, num_heads=6, hidden_dim=384, mlp_dim=1536)


@cache
def _names() -> list[str]:
    return [*torchvision.models.list_models(module=torchvision.models), 'VisionTransformer']


@MODELS.register_module()
class TorchVisionBackbone(LibraryBackbone):
    """Any classification network of torchvision by its name.

    ``dict(type='TorchVisionBackbone', model_name='convnext_tiny')``, and a ViT of any size::

        dict(type='TorchVisionBackbone', model_name='VisionTransformer', img_size=16, in_channels=1,
             model_args=dict(patch_size=4, num_layers=4, num_heads=4, hidden_dim=64, mlp_dim=256))

    The network is built with random weights. torchvision's ViT has neither drop path nor images of several sizes;
    here it has both: stochastic depth on both branches of a block, at rates that rise in a line from 0 to
    ``drop_path``, and position embeddings resized by bicubic interpolation, as in timm. Where ``in_channels`` is not 3,
    the first convolution is drawn anew, normal with variance 1 / fan-in. All other arguments, the attributes and
    errors: :class:`LibraryBackbone`.

    Args:
        model_name: As for ``torchvision.models.get_model``, whose further arguments are in ``model_args``, or
            ``'VisionTransformer'``. ``torchvision.models.list_models()`` lists them.
    """

    library = 'torchvision'
    listing = 'torchvision.models.list_models(module=torchvision.models)'
    size_key = 'image_size'
    keys: ClassVar[dict[str, str]] = dict(
        image_size='img_size',
        dynamic_img_size='dynamic_img_size',
        stochastic_depth_prob='drop_path',
        num_classes='pool',
        weights='init_cfg',
    )

    def __init__(self, model_name: str, **kwargs: Any) -> None:
        super().__init__(model_name, **kwargs)

    def names(self) -> list[str]:
        """Return torchvision's names, and that of its ViT."""
        return _names()

    def build(self, args: dict[str, Any], dynamic: bool, drop_path: float) -> nn.Module:
        """Build the network, without its last linear layer."""
        network: nn.Module
        if self.model_name.startswith('vit_'):
            check_patches(args.get('image_size', 224), int(self.model_name.rpartition('_')[2]), self.model_name)
        elif self.model_name != 'VisionTransformer':
            args = args | (dict(stochastic_depth_prob=drop_path) if drop_path else {})
            args |= {'dynamic_img_size': True} if dynamic else {}  # torchvision refuses it
        if self.model_name == 'VisionTransformer':
            args = VIT | args
            check_patches(args['image_size'], args['patch_size'], self.model_name)
            network = VisionTransformer(**args)
        else:
            args = dict(aux_logits=False, init_weights=True) | args if self.model_name in AUXILIARY else args
            network = torchvision.models.get_model(self.model_name, weights=None, **args)
        if self.in_channels != 3:
            _replace_stem(network, self.in_channels)
        if isinstance(network, VisionTransformer):
            network.heads = nn.Identity()
            _add_drop_path(network, drop_path)
            return network
        *_, last = ['', *(name for name, module in network.named_modules() if isinstance(module, nn.Linear))]
        if not last and self.pool is None:
            raise ValueError(
                f'backbone.model_name is {self.model_name!r}, which has no pooled features (N, D) before its '
                "classifier. Set backbone.pool='mean', or take another network."
            )
        if last:
            parent, _, name = last.rpartition('.')
            setattr(network.get_submodule(parent), name, nn.Identity())
        return network

    def patch_embedding(self) -> nn.Module | None:
        """Return ``conv_proj`` of a ViT."""
        return self.network.conv_proj if isinstance(self.network, VisionTransformer) else None

    def positions(self) -> tuple[nn.Module, str, int] | None:
        """Return the place of ``encoder.pos_embedding`` (1, T, D)."""
        return (self.network.encoder, 'pos_embedding', 1) if isinstance(self.network, VisionTransformer) else None

    def fixed_size(self) -> int | None:
        """Return the side of the images of a ViT."""
        return self.network.image_size if isinstance(self.network, VisionTransformer) else None

    def native_size(self) -> int:
        """Return 224, which all networks take."""
        return 224

    def depths(self) -> dict[str, int]:
        """Return the number of the stage of each parameter; the stem is 0, a norm after the last stage part of it."""
        numbers = {id(p): i for i, stage in enumerate(self._maps(), start=1) for p in stage.parameters()}
        found, last = {}, 0
        for name, parameter in self.network.named_parameters():
            last = numbers.get(id(parameter), last)
            found[name] = last
        order = sorted(set(found.values()))
        return {name: order.index(number) for name, number in found.items()}

    def unregularised(self) -> set[str]:
        """Return class token, position embeddings and tables of relative positions."""
        ends = ('class_token', 'pos_embedding', 'relative_position_bias_table')
        return {name for name, _ in self.network.named_parameters() if name.endswith(ends)}

    def _stages(self) -> list[nn.Module]:
        """Return the modules whose outputs are maps, in their order."""
        network: Any = self.network
        if isinstance(network, VisionTransformer):
            return list(network.encoder.layers)
        inner = next((x for x in (getattr(network, key, None) for key in ('features', 'layers', 'blocks')) if x), None)
        return list((network if inner is None else inner).children())

    @property
    def num_layers(self) -> int:
        """Number of blocks of a ViT, and of the maps of another network before it pools."""
        return len(self._maps())

    def _maps(self) -> list[nn.Module]:
        if self._layers is None:
            shapes: list[tuple[nn.Module, int]] = []
            handles = [
                stage.register_forward_hook(lambda stage, _, y: shapes.append((stage, y.ndim * (y.shape[-1] > 1))))
                for stage in self._stages()
            ]
            pool, self.pool = self.pool, None
            try:
                self._without_values(None)
            finally:
                self.pool = pool
                for handle in handles:
                    handle.remove()
            self._layers = [stage for stage, dims in shapes if dims >= 3]
        return self._layers

    @property
    def drops_patches(self) -> bool:
        """Whether it is a ViT."""
        return isinstance(self.network, VisionTransformer)

    def pooled(self, x: Tensor, kept: KeptPatches | None = None) -> Tensor:
        """Return the input of the classifier."""
        return self._tokens(x, kept)[:, 0] if isinstance(self.network, VisionTransformer) else self.network(x)

    def mapped(
        self, x: Tensor, layer: int | None = None, kept: KeptPatches | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return pooled features, map and class token."""
        network: Any = self.network
        vit = isinstance(network, VisionTransformer)
        stages = self._maps()
        stage = network.encoder.ln if vit and layer is None else stages[(layer or len(stages)) - 1]
        found: list[Tensor] = []
        handle = stage.register_forward_hook(lambda *args: found.append(args[2]))
        try:
            own = self.pooled(x, kept)
        finally:
            handle.remove()
        if vit:
            rows = x.shape[2] // network.patch_size if kept is None else 1
            return own, found[0][:, 1:].transpose(1, 2).unflatten(2, (rows, -1)), found[0][:, 0]
        return own, found[0].permute(0, 3, 1, 2) if isinstance(network, SwinTransformer) else found[0], None

    def _tokens(self, x: Tensor, kept: KeptPatches | None) -> Tensor:
        """Return a ViT's class token and patches (N, 1 + T, D), after the last norm."""
        vit: Any = self.network
        patches = vit.conv_proj(x)
        rows, columns = patches.shape[2:]
        token = vit.class_token.expand(x.shape[0], -1, -1)  # with len(x), an export to ONNX takes one size of batch
        tokens = torch.cat([token, patches.flatten(2).transpose(1, 2)], 1)
        encoder = vit.encoder
        positions = resized_positions(encoder.pos_embedding, (rows, columns), 1)
        tokens = tokens + positions
        if kept is not None:
            tokens = kept.tokens(tokens, 1)
        return encoder.ln(encoder.layers(encoder.dropout(tokens)))


def resized_positions(positions: Tensor, grid: tuple[int, int], extra: int) -> Tensor:
    """Return position embeddings (1, T, D) for a ``grid`` of patches, by bicubic interpolation; the ``extra`` stay."""
    old = round((positions.shape[1] - extra) ** 0.5)
    if grid == (old, old):
        return positions
    first, rest = positions[:, :extra], positions[:, extra:]
    image = rest.float().transpose(1, 2).unflatten(2, (old, old))
    image = F.interpolate(image, grid, mode='bicubic', antialias=True)
    return torch.cat([first, image.flatten(2).transpose(1, 2).to(first.dtype)], 1)


def _add_drop_path(vit: VisionTransformer, rate: float) -> None:
    blocks = list(vit.encoder.layers)
    for i, block in enumerate(blocks):
        p = rate * i / max(len(blocks) - 1, 1)
        if p:  # neither has parameters, so the names stay
            block.dropout = nn.Sequential(block.dropout, StochasticDepth(p, 'row'))
            block.mlp.append(StochasticDepth(p, 'row'))


def _replace_stem(network: nn.Module, channels: int) -> None:
    name, old = next((name, m) for name, m in network.named_modules() if isinstance(m, nn.Conv2d))
    keys = ('kernel_size', 'stride', 'padding', 'dilation', 'padding_mode')
    args: dict[str, Any] = {key: getattr(old, key) for key in keys}
    stem = nn.Conv2d(channels, old.out_channels, bias=old.bias is not None, **args)
    nn.init.normal_(stem.weight, std=stem.weight[0].numel() ** -0.5)
    if stem.bias is not None:
        nn.init.zeros_(stem.bias)
    parent, _, child = name.rpartition('.')
    setattr(network.get_submodule(parent), child, stem)
