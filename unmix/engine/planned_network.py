"""The backbone of a planned training: a ResNet of this package, or a network of a library."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import ConfigDict
from torch import nn

from unmix.converters.fit import SETTINGS, check_network
from unmix.converters.library_networks import library_of
from unmix.converters.start import is_library, library_config
from unmix.engine.pace import Cost, network_cost, resnet_cost
from unmix.engine.plan import Wishes
from unmix.models.backbones.resnet import ARCHITECTURES
from unmix.registry import MODELS

PATCHES = 4  # of a Vision Transformer along a side of a view, at least


class PlannedNetwork:
    """What the wishes and the recipe say of the backbone, what it costs, and which options make it.

    Args:
        method: Name of the method.
        recipe: Config of the recipe's backbone.
        wishes: What the user wants: the name of a network, or weights to start from.

    Attributes:
        library: The network of a library; None: a ResNet of this package.
        reason: Why it is this one; None if the recipe leaves the choice to the plan.
        wanted: Depth of the ResNet that the user wants, by name or by its weights; None: none, or ``library``.
        two: Whether the method has two networks of this kind.
        key: Key of the ResNet's depth.

    Raises:
        ValueError: If weights to start from are of another network, or of images with other channels, or the method
            has two networks.
    """

    def __init__(self, method: str, recipe: ConfigDict, wishes: Wishes) -> None:
        start, name = wishes.start, wishes.backbone
        self.recipe, self.two = recipe, 'branch' in recipe
        self.key = 'model.backbone.branch.depth' if self.two else 'model.backbone.depth'
        self.reason = f'that of {start.source}' if start is not None else 'given' if name is not None else None
        config = library_config(name) if name is not None and is_library(name) else None
        if start is not None:
            if config is not None:
                if library_of(start.backbone) is not None:
                    check_network(start, start.backbone | config, f'--backbone {name}')
            elif name is not None:
                check_network(start, dict(type='ResNet', depth=backbone_depth(name)), f'--backbone {name}')
            config = start.backbone
        self.config: dict[str, Any] = dict(config or {})
        self.library: Any = None
        self.wanted: int | None = None
        if config is None:
            self.wanted = None if name is None else backbone_depth(name)
            return
        if self.two != (config['type'] == 'TwoBranch'):
            given = f'--backbone {name}' if start is None else f'--from {start.source}'
            raise ValueError(
                f'--method {method} has {"two networks, of lightness and of colour" if self.two else "one network"}, '
                f'and {given} is {"one" if self.two else "two"}. Take another method.'
            )
        _check_channels(config, recipe, f'--backbone {name}' if start is None else f'--from {start.source}')
        if library_of(config) is not None:
            self.library = MODELS.build(dict(config))
        else:
            self.config = config.get('branch', config)
            self.wanted = self.config['depth']

    @property
    def groups(self) -> int:
        """Return the number of groups that BatchNorm splits a batch into."""
        return int(self.recipe.get('num_splits', 1)) if self.library is None else 1

    @property
    def has_batch_norm(self) -> bool:
        """Return whether it has BatchNorm, as convolutional networks do."""
        return self.library is None or any(isinstance(layer, nn.BatchNorm2d) for layer in self.library.modules())

    def cost(self) -> Cost:
        """Return the cost; of a ResNet of the recipe's depth, if the user wants no other one."""
        if self.library is not None:
            side = self.library.image_size or self.library.native_size()
            return network_cost(self.library, self.library.in_channels, side)
        return resnet_cost(self.wanted or int(self.recipe.get('branch', self.recipe).get('depth', 50)))

    def side(self, size: int, reason: str) -> tuple[int, str]:
        """Return the side of views that it takes instead of ``size``, and the reason."""
        library = self.library
        if library is not None and library.patch_size is not None:
            least = max(-(-size // library.patch_size), PATCHES) * library.patch_size
            if least != size:
                return least, f'{least // library.patch_size} patches of {library.patch_size} px; {reason}'
        elif library is not None and library.image_size is not None and library.image_size != size:
            return library.image_size, f'the only one that {library.model_name} takes'
        return size, reason

    def library_options(self, size: int) -> dict[str, Any]:
        """Return the options, by their full keys, that make the network of a library the backbone."""
        config = dict(self.config)
        if self.library.patch_size is not None and self.library.positions() is not None:
            config['img_size'] = size
        options = {f'model.backbone.{key}': value for key, value in config.items()}
        return {'model.backbone._delete_': True, **options, 'model.neck.in_dim': self.library.out_dim}

    def resnet_options(self, depth: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options, by their full keys, that go with a ResNet's depth.

        Args:
            depth: The depth.
            options: The options so far, some of which may be of the network.
        """
        place = self.key.removesuffix('depth')
        found = {
            f'{place}{key}': self.config[key]
            for key in SETTINGS
            if key in self.config and key not in ('type', 'depth') and not (self.two and key == 'in_channels')
        }
        cfg = self.recipe.copy()
        part = cfg.branch if self.two else cfg
        part.update({key.removeprefix(place): v for key, v in {**options, **found}.items() if key.startswith(place)})
        part.depth = depth
        with torch.device('meta'):
            width = MODELS.build(cfg).out_dim
        return found | {
            'model.neck.neck.in_dim' if self.two else 'model.neck.in_dim': width // 2 if self.two else width
        }


def _channels(config: Mapping[str, Any]) -> int:
    return int(sum(config.get('channels', (1, 2))) if 'branch' in config else config.get('in_channels', 3))


def _check_channels(config: Mapping[str, Any], recipe: Mapping[str, Any], given: str) -> None:
    """Raise a ValueError if a network takes images with other channels than those of the training."""
    own, images = _channels(config), _channels(recipe)
    if own != images:
        raise ValueError(
            f'{given} takes images with {own} channel{"s" if own > 1 else ""}, and this training has images with '
            f'{images}. Give a network of images with {images}, as torchvision:resnet18, or leave it out. A config '
            f'whose images have {own} can start from these weights by unmix train CONFIG --from.'
        )


def backbone_depth(name: str) -> int:
    """Return the depth of a network by its name, as 18 of resnet18.

    Raises:
        ValueError: If there is no such network.
    """
    names = {f'resnet{depth}': depth for depth in ARCHITECTURES}
    if name not in names:
        raise ValueError(
            f'--backbone is {name!r}; expected one of {", ".join(names)}, or timm:NAME or torchvision:NAME.'
        )
    return names[name]
