"""Networks of timm."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

from torch import Tensor, nn

from unmix.mixing.patches import KeptPatches
from unmix.models.backbones.library import LibraryBackbone
from unmix.registry import MODELS

EXTRA = "pip install -e '.[timm]'"


def import_timm() -> Any:
    """Return the package timm.

    Raises:
        ImportError: If it is missing; the message names the extra.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f'TIMMBackbone needs the package timm, which is missing ({error}): {EXTRA}. '
            "type='TorchVisionBackbone' has torchvision's networks without it."
        ) from error
    return timm


@cache
def _names() -> list[str]:
    return list(import_timm().list_models())


@MODELS.register_module()
class TIMMBackbone(LibraryBackbone):
    """Any classification network of `timm <https://github.com/huggingface/pytorch-image-models>`_ by its name.

    ``dict(type='TIMMBackbone', model_name='vit_tiny_patch16_224', img_size=32, model_args=dict(patch_size=4))``

    timm is an extra: ``pip install -e '.[timm]'``. The network is built with random weights. All other arguments, the
    attributes and errors: :class:`LibraryBackbone`.

    Args:
        model_name: As for ``timm.create_model``, whose further arguments are in ``model_args``: ``vit_*``,
            ``convnext_*``, ``efficientnet_*``, ... ``timm.list_models()`` lists them.
    """

    library = 'timm'
    listing = 'timm.list_models()'
    size_key = 'img_size'
    keys: ClassVar[dict[str, str]] = dict(
        in_chans='in_channels',
        img_size='img_size',
        dynamic_img_size='dynamic_img_size',
        drop_path_rate='drop_path',
        num_classes='pool',
        global_pool='pool',
        pretrained='init_cfg',
        checkpoint_path='init_cfg',
    )

    def __init__(self, model_name: str, **kwargs: Any) -> None:
        import_timm()
        super().__init__(model_name, **kwargs)

    def names(self) -> list[str]:
        """Return timm's names."""
        return _names()

    def build(self, args: dict[str, Any], dynamic: bool, drop_path: float) -> nn.Module:
        """Build the network by ``timm.create_model``."""
        args = args | ({'dynamic_img_size': True} if dynamic else {})
        args |= dict(drop_path_rate=drop_path) if drop_path else {}
        network: nn.Module = import_timm().create_model(
            self.model_name, pretrained=False, num_classes=0, in_chans=self.in_channels, **args
        )
        return network

    def patch_embedding(self) -> nn.Module | None:
        """Return ``patch_embed.proj``."""
        found = getattr(getattr(self.network, 'patch_embed', None), 'proj', None)
        return found if isinstance(found, nn.Module) else None

    def positions(self) -> tuple[nn.Module, str, int] | None:
        """Return the place of ``pos_embed`` (1, T, D)."""
        found = getattr(self.network, 'pos_embed', None)
        if not isinstance(found, nn.Parameter) or found.ndim != 3:
            return None
        own = 0 if getattr(self.network, 'no_embed_class', False) else getattr(self.network, 'num_prefix_tokens', 0)
        return self.network, 'pos_embed', own

    def fixed_size(self) -> int | None:
        """Return the side of ``patch_embed.img_size`` where timm insists on it."""
        embedding = getattr(self.network, 'patch_embed', None)
        size = getattr(embedding, 'img_size', None)
        return int(size[0]) if size is not None and getattr(embedding, 'strict_img_size', True) else None

    def native_size(self) -> int:
        """Return the side of the images of timm's own weights."""
        config: dict[str, Any] = getattr(self.network, 'pretrained_cfg', None) or {}
        return int((config.get('input_size') or (3, 224, 224))[-1])

    def depths(self) -> dict[str, int]:
        """Return timm's groups."""
        from timm.models import group_parameters

        network: Any = self.network
        return dict(group_parameters(network, network.group_matcher(coarse=False), reverse=True))

    def unregularised(self) -> set[str]:
        """Return what timm's network lists."""
        listed = getattr(self.network, 'no_weight_decay', None)
        return set(listed()) if listed is not None else set()

    @property
    def num_layers(self) -> int:
        """Number of timm's ``feature_info`` if the network gives its maps, else 0."""
        info = getattr(self.network, 'feature_info', None)
        return len(info) if info is not None and hasattr(self.network, 'forward_intermediates') else 0

    @property
    def drops_patches(self) -> bool:
        """Whether it is timm's ViT: patches of the image, all positions in ``pos_embed``."""
        from timm.layers import PatchEmbed
        from timm.models import VisionTransformer

        network: Any = self.network
        vit = isinstance(network, VisionTransformer) and isinstance(network.patch_embed, PatchEmbed)
        return vit and network.pos_embed is not None

    def pooled(self, x: Tensor, kept: KeptPatches | None = None) -> Tensor:
        """Return what timm's network returns without classifier."""
        network: Any = self.network
        with self._keeping(kept):
            return network.forward_head(network.forward_features(x), pre_logits=True)

    @contextmanager
    def _keeping(self, kept: KeptPatches | None) -> Iterator[None]:
        """Choose the tokens where timm's network drops patches."""
        if kept is None:
            yield
            return
        network: Any = self.network
        extra = network.num_prefix_tokens
        handle = network.patch_drop.register_forward_pre_hook(lambda _, args: (kept.tokens(args[0], extra), *args[1:]))
        try:
            yield
        finally:
            handle.remove()

    def mapped(
        self, x: Tensor, layer: int | None = None, kept: KeptPatches | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return pooled features, map and class token."""
        network: Any = self.network
        if layer is not None:
            (found,) = network.forward_intermediates(
                x, indices=[layer - 1], stop_early=True, output_fmt='NCHW', intermediates_only=True
            )
            return found, found, None
        with self._keeping(kept):
            features = network.forward_features(x)
        if not isinstance(features, Tensor):
            raise ValueError(
                f'{self.model_name} of timm has no map before its pooled features. Leave out backbone.pool.'
            )
        own = network.forward_head(features, pre_logits=True)
        if features.ndim == 4:
            last = getattr(network, 'output_fmt', 'NCHW')
            return own, features.permute(0, 3, 1, 2) if str(last).endswith('NHWC') else features, None
        extra = getattr(network, 'num_prefix_tokens', 0)
        rows = x.shape[2] // (self.patch_size or 1) if kept is None else 1
        patches = features[:, extra:]
        rows = rows if patches.shape[1] % max(rows, 1) == 0 else int(patches.shape[1] ** 0.5)
        patches = patches.transpose(1, 2).unflatten(2, (rows, -1))
        return own, patches, features[:, 0] if extra and getattr(network, 'cls_token', None) is not None else None
