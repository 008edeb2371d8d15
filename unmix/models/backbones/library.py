"""What the networks of other libraries have in common as backbones."""

import math
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.func import functional_call

from unmix.config.check import suggest
from unmix.mixing.patches import KeptPatches
from unmix.models.guarded import Guarded

POOLS = (None, 'token', 'mean')
_REFUSED = re.compile(r"unexpected keyword argument '(\w+)'")


class LibraryBackbone(Guarded, BaseModule):
    """A classification network of a library without its classifier: images (N, C, H, W) to pooled features (N, D).

    The network is in ``network``, with the library's names and initialisation, so weights move in both directions: the
    state dict is the library's, with ``network.`` before each name.

    With Un-Mix a batch in reverse order has the features in reverse order, ``encode(flip(m)) = flip(encode(m))``, as
    long as each image is encoded on its own: exactly without drop path, and in distribution with it, since the
    branches that an image loses are drawn by its place in the batch. Un-Mix encodes the mixture once, and is unbiased
    in both cases.

    Args:
        model_name: Name of the network in the library.
        in_channels: Channels C of the images.
        img_size: Side of the images, for networks that are built for one; None: that of the library.
        dynamic_img_size: Whether a ViT takes images of any size that its patches divide, with position embeddings
            resized, as multi-crop needs. Networks without position embeddings do so anyway.
        pool: Features: None, the network's own; ``'token'``, the class token; ``'mean'``, the mean of the patches, or
            of the map. The last norm comes before, if the library has it there.
        drop_path: Rate of stochastic depth of the last block, as the library spreads it over the blocks.
        freeze_patch_embed: Whether the patch embedding of a ViT keeps its random weights (`MoCo v3
            <https://arxiv.org/abs/2104.02057>`_, Sec. 4).
        fixed_positions: Whether the position embeddings of a ViT are sines and cosines in two dimensions, which do not
            learn, as in MoCo v3's released code.
        channels_last: Whether weights and maps are channels-last, which is faster for convolutions.
        model_args: Further arguments of the library.
        init_cfg: As in MMEngine.

    Attributes:
        network: The library's network.
        out_dim: Feature dimension D.
        layer_dims: Channels of the maps of ``forward(x, layer)``.
        probe: Side of images that it takes.

    Raises:
        ImportError: If the library is missing.
        ValueError: If the library has no such network, the network does not take an argument or has no pooled features,
            or its patches do not divide the images.
    """

    library: ClassVar[str]
    listing: ClassVar[str]  # expression that lists the names
    size_key: ClassVar[str]
    keys: ClassVar[dict[str, str]]  # of the library that model_args cannot have -> what to set instead

    def __init__(
        self,
        model_name: str,
        in_channels: int = 3,
        img_size: int | None = None,
        dynamic_img_size: bool = False,
        pool: str | None = None,
        drop_path: float = 0.0,
        freeze_patch_embed: bool = False,
        fixed_positions: bool = False,
        channels_last: bool = False,
        model_args: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if pool not in POOLS:
            raise ValueError(f'backbone.pool is {pool!r}; it is one of {", ".join(map(repr, POOLS))}.')
        if not 0 <= drop_path < 1:
            raise ValueError(f'backbone.drop_path is {drop_path}; it is a rate from 0 to below 1.')
        if not isinstance(model_name, str) or model_name not in self.names():
            near = suggest(str(model_name), self.names(), f'All names: {self.listing}.')
            raise ValueError(f'backbone.model_name is {model_name!r}; {self.library} has no such network. {near}')
        self.model_name, self.in_channels, self.pool, self.channels_last = model_name, in_channels, pool, channels_last
        args = dict(model_args or {})
        for key in args.keys() & self.keys.keys():
            raise ValueError(f'backbone.model_args.{key} is {args[key]!r}; set backbone.{self.keys[key]} instead.')
        args |= {} if img_size is None else {self.size_key: img_size}
        try:
            self.network = self.build(args, dynamic_img_size, drop_path)
        except AssertionError as error:
            raise ValueError(f'{model_name} of {self.library} cannot be built with these arguments: {error}') from error
        except TypeError as error:
            refused = _REFUSED.search(str(error))
            if refused is None:
                raise
            key = self.keys.get(refused[1], f'model_args.{refused[1]}')
            raise ValueError(
                f'backbone.{key} is given, but {model_name} of {self.library} has no such argument. Leave it out.'
            ) from error
        # The library has initialised its network: MMEngine would do so again, over frozen and loaded weights.
        self.network.is_init = True  # type: ignore[assignment]
        self.patch_size, self.image_size = self.patches(), self.fixed_size()
        side = self.image_size or img_size
        check_patches(side or 0, self.patch_size or 1, model_name)
        if dynamic_img_size:
            self.image_size = None
        self._layers: list[nn.Module] | None = None
        self._prepare_patches(freeze_patch_embed, fixed_positions)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.probe = side or self.native_size()
        self.out_dim = self._width()
        self._freeze_unused()

    # What a library defines.

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of the library's networks."""

    @abstractmethod
    def build(self, args: dict[str, Any], dynamic: bool, drop_path: float) -> nn.Module:
        """Return the network without classifier."""

    @abstractmethod
    def patch_embedding(self) -> nn.Module | None:
        """Return the layer of a ViT that embeds patches; None: it is no ViT."""

    @abstractmethod
    def positions(self) -> tuple[nn.Module, str, int] | None:
        """Return where the position embeddings are, a parameter (1, T, D), and how many are not of patches."""

    @abstractmethod
    def fixed_size(self) -> int | None:
        """Return the side of the images that the network can take; None: it takes several."""

    @abstractmethod
    def native_size(self) -> int:
        """Return a side of images that the network takes."""

    @abstractmethod
    def depths(self) -> dict[str, int]:
        """Return the layer of each parameter of ``network``, from 0, the stem, for layer-wise decay."""

    @abstractmethod
    def unregularised(self) -> set[str]:
        """Return the names of tokens, position embeddings and the like in ``network``, which have no weight decay."""

    @property
    @abstractmethod
    def drops_patches(self) -> bool:
        """Whether the network can encode images of which patches are missing."""

    @abstractmethod
    def pooled(self, x: Tensor, kept: KeptPatches | None = None) -> Tensor:
        """Return the network's own pooled features (N, D); with ``kept`` those of its patches only."""

    @abstractmethod
    def mapped(
        self, x: Tensor, layer: int | None = None, kept: KeptPatches | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the own pooled features (N, D), the map (N, D', H', W') after a layer, and the class token (N, D').

        ``layer`` is counted from 1; None: the last one, after the last norm if that comes before the pooling. With
        ``kept`` the map has one row, of its patches.
        """

    # The rest.

    def patches(self) -> int | None:
        """Return the side of a patch in pixels; None: the network has none."""
        conv = self.patch_embedding()
        stride = getattr(conv, 'stride', None)
        return int(stride[0]) if isinstance(stride, tuple) else None

    def _prepare_patches(self, freeze: bool, fixed: bool) -> None:
        embedding, place = self.patch_embedding(), self.positions()
        for key, wanted, there in (
            ('freeze_patch_embed', freeze, embedding is not None),
            ('fixed_positions', fixed, place is not None),
        ):
            if wanted and not there:
                raise ValueError(
                    f'backbone.{key} is True, but {self.model_name} is no ViT with '
                    f'{"patch" if key == "freeze_patch_embed" else "position"} embeddings. Leave it out.'
                )
        if freeze and embedding is not None:
            embedding.requires_grad_(False)
        if fixed and place is not None:
            module, name, extra = place
            parameter = getattr(module, name)
            with torch.no_grad():
                parameter.copy_(sine_positions(parameter.shape[1] - extra, parameter.shape[2], extra))
            parameter.requires_grad_(False)

    def _width(self) -> int:
        """Return the dimension of the features, from a forward pass without values."""
        features = self._without_values(None)
        if not isinstance(features, Tensor) or features.ndim != 2:
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f'backbone.model_name is {self.model_name!r}, which gives {shape} for an image, not pooled features '
                "(N, D). Set backbone.pool='mean', or take another network."
            )
        return int(features.shape[1])

    def _freeze_unused(self) -> None:
        """Freeze parameters on which the features do not depend, such as a norm after another pooling.

        DistributedDataParallel would wait for their gradients.
        """
        tensors = {name: p.detach().to('meta').requires_grad_() for name, p in self.named_parameters()}
        with torch.enable_grad():
            features = self._without_values(None, tensors)
            gradients = torch.autograd.grad(features.sum(), list(tensors.values()), allow_unused=True)
        for parameter, gradient in zip(self.parameters(), gradients, strict=True):
            if gradient is None:
                parameter.requires_grad_(False)

    @torch.no_grad()
    def _meta(self) -> dict[str, Tensor]:
        return {name: p.to('meta') for name, p in self.named_parameters()}

    def _without_values(self, layer: int | None, parameters: Mapping[str, Tensor] | None = None) -> Any:
        """Return the result of a forward pass in evaluation mode, of an image without values."""
        training = self.training
        tensors = dict(self._meta() if parameters is None else parameters)
        tensors |= {name: x.to('meta') for name, x in self.named_buffers()}
        image = torch.empty(1, self.in_channels, self.probe, self.probe, device='meta')
        try:
            return functional_call(self.eval(), tensors, (image,) if layer is None else (image, layer))
        finally:
            self.train(training)

    @property
    def layer_dims(self) -> tuple[int, ...]:
        """Channels of the map after each layer."""
        return tuple(int(self._without_values(layer).shape[1]) for layer in range(1, self.num_layers + 1))

    @property
    @abstractmethod
    def num_layers(self) -> int:
        """Number of the maps that :meth:`forward` can return."""

    def forward(self, x: Tensor | KeptPatches, layer: int | None = None) -> Tensor:
        """Return features (N, D) of images ``x`` (N, C, H, W), or with ``layer`` the map (N, D', H', W') after it.

        The layers are blocks of a ViT and stages of other networks, from 1. A ViT encodes the patches of
        :class:`KeptPatches` only; the others cost nothing beyond their embedding.
        """
        kept = x if isinstance(x, KeptPatches) else None
        images = x.images if isinstance(x, KeptPatches) else x
        self._check(images)
        if layer is not None:
            return self.mapped(images, layer, kept)[1]
        return self.pooled(images, kept) if self.pool is None else self._with_patches(images, kept)[0]

    def with_patches(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (N, D) of images ``x`` (N, C, H, W), and those of their patches (N, D', H', W')."""
        self._check(x)
        return self._with_patches(x)

    def _with_patches(self, x: Tensor, kept: KeptPatches | None = None) -> tuple[Tensor, Tensor]:
        own, patches, token = self.mapped(x, None, kept)
        if self.pool == 'token':
            if token is None:
                raise ValueError(f"backbone.pool is 'token', but {self.model_name} has no class token. Use 'mean'.")
            return token, patches
        return (own if self.pool is None else patches.mean((2, 3))), patches

    def _check(self, x: Tensor) -> None:
        """Check the number of channels and the size of images.

        Raises:
            ValueError: It names the key, and what works.
        """
        channels, height, width = x.shape[1:]
        if channels != self.in_channels:
            raise ValueError(
                f'The images have {channels} channels, model.backbone.in_channels is {self.in_channels}. Set '
                f"model.backbone.in_channels={channels}; with weights of one channel add dict(type='Grayscale') to the "
                'transforms of the pipeline instead.'
            )
        size = self.image_size
        if size is not None and (height, width) != (size, size):
            raise ValueError(
                f'The images have {height}x{width} px, and {self.model_name} takes {size}x{size} (backbone.img_size). '
                f'{self._sizes_advice(height, width)}'
            )
        patch = self.patch_size
        if patch and (height % patch or width % patch):
            raise ValueError(
                f'The images have {height}x{width} px, and the patches of {self.model_name} have {patch} px, which do '
                f'not divide them. Make the crops of the pipeline {_multiples(height, patch)} px.'
            )

    def _sizes_advice(self, height: int, width: int) -> str:
        if self.positions() is None:
            return 'Make all crops of the pipeline of this size.'
        return (
            f'Set backbone.img_size={max(height, width)}, or, for crops of several sizes, '
            'backbone.dynamic_img_size=True.'
        )


def check_patches(size: int, patch: int, name: str) -> None:
    """Check that patches of ``patch`` px divide images of ``size`` px.

    Raises:
        ValueError: If they do not; it names the sizes next to it.
    """
    if size % patch:
        raise ValueError(
            f'backbone.img_size is {size}, and the patches of {name} have {patch} px, which do not divide it. Make it '
            f'{_multiples(size, patch)}, and the crops of the pipeline too.'
        )


def _multiples(size: int, patch: int) -> str:
    below = size // patch * patch
    return f'{below} or {below + patch}' if below else str(patch)


def sine_positions(number: int, dim: int, extra: int = 0) -> Tensor:
    """Return position embeddings (1, extra + number, dim): sines and cosines of row, then of column; 0 for the extra.

    Frequencies are ``10000^(-4 i / dim)``, i = 0 ... dim / 4 - 1, as in MoCo v3's released code.

    Raises:
        ValueError: If ``dim`` is not a multiple of 4, or the patches are no square.
    """
    side = math.isqrt(number)
    if dim % 4 or side**2 != number:
        raise ValueError(
            'backbone.fixed_positions needs a width that 4 divides, and as many rows as columns of patches; the '
            f'network has width {dim} and {number} patches.'
        )
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing='ij')
    parts = [angle for axis in (row, column) for angle in _waves(axis.flatten().double()[:, None] * omega)]
    return torch.cat([torch.zeros(extra, dim), torch.cat(parts, 1).float()])[None]


def _waves(angle: Tensor) -> Iterator[Tensor]:
    yield angle.sin()
    yield angle.cos()
