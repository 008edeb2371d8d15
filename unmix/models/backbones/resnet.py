"""ResNet on torchvision's blocks, for large and small images."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from unmix.models.guarded import Guarded
from unmix.models.layers.batch_norm import SplitBatchNorm, group_samples, ungroup_samples
from unmix.registry import MODELS

ARCHITECTURES: dict[int, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, ...]]] = {
    8: (BasicBlock, (1, 1, 1)),
    18: (BasicBlock, (2, 2, 2, 2)),
    26: (Bottleneck, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
STEMS: dict[str, dict[str, Any]] = {
    'imagenet': dict(kernel_size=7, stride=2, padding=3, maxpool=True),
    'cifar': dict(kernel_size=3, stride=1, padding=1, maxpool=False),
    'cifar-pool': dict(kernel_size=3, stride=1, padding=1, maxpool=True),
}


@MODELS.register_module()
class ResNet(Guarded, BaseModule):
    """`ResNet <https://arxiv.org/abs/1512.03385>`_ without classifier: images (N, C, H, W) to pooled features (N, D).

    Parameter names, initialisation and arithmetic are torchvision's, so weights move in both directions.

    Args:
        depth: 8 (three stages of one basic block), 18, 26 (Bottleneck, 2-2-2-2), 34, 50, 101 or 152.
        in_channels: Channels C of the images.
        width: Planes of the first stage; each later stage has twice as many.
        stem: ``'imagenet'`` (7x7, stride 2, max-pool), ``'cifar'`` (3x3, stride 1, no max-pool), ``'cifar-pool'`` (the
            same with max-pool, for 64 px), or a dict with ``kernel_size, stride, padding, maxpool``. The ``cifar``
            stems keep PyTorch's default initialisation, as in the released codes, which replace the stem after
            initialising.
        num_splits: Groups of the batch that BatchNorm treats on their own, see :class:`SplitBatchNorm`; 1 is plain.
        stem_width: Channels of the stem; None: as ``width``.
        channels_last: Memory format: True keeps weights and maps channels-last, a number only those of so many layers,
            counted as in :meth:`forward`. The same results to rounding, in less time; see ``docs/speed.md``.
        zero_init_residual: Whether the last BatchNorm of each residual branch starts at 0, so that the block starts as
            its shortcut.
        init_cfg: As in MMEngine, e.g. ``dict(type='Pretrained', checkpoint=..., prefix='backbone.')``.

    Attributes:
        out_dim: Feature dimension D.
        layer_dims: Channels after the stem and after each stage.

    Raises:
        ValueError: If depth or stem is unknown.
    """

    def __init__(
        self,
        depth: int = 50,
        in_channels: int = 3,
        width: int = 64,
        stem: str | dict[str, Any] = 'imagenet',
        num_splits: int = 1,
        stem_width: int | None = None,
        channels_last: bool | int = False,
        zero_init_residual: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if depth not in ARCHITECTURES:
            raise ValueError(f'backbone.depth is {depth}; ResNet has depths {sorted(ARCHITECTURES)}.')
        if isinstance(stem, str) and stem not in STEMS:
            raise ValueError(
                f'backbone.stem is {stem!r}; it is one of {sorted(STEMS)}, or a dict like {STEMS["cifar"]}.'
            )
        block, blocks = ARCHITECTURES[depth]
        self.num_splits, self.channels_last = num_splits, channels_last
        norm = partial(SplitBatchNorm, num_splits=num_splits, adjacent=channels_last is not False)
        self._norm = norm if num_splits > 1 else nn.BatchNorm2d
        stem_cfg = dict(STEMS[stem] if isinstance(stem, str) else stem)
        maxpool = stem_cfg.pop('maxpool', False)
        channels = stem_width or width
        self.conv1 = nn.Conv2d(in_channels, channels, bias=False, **stem_cfg)
        self.bn1 = self._norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if maxpool else nn.Identity()
        self.num_stages = len(blocks)
        self.layer_dims: tuple[int, ...] = (channels,)
        for i, num_blocks in enumerate(blocks):
            planes = width * 2**i
            stage = self._make_stage(block, channels, planes, num_blocks, stride=2 if i else 1)
            self.add_module(f'layer{i + 1}', stage)
            channels = planes * block.expansion
            self.layer_dims += (channels,)
        self.out_dim = channels
        self._init_parameters(default_stem=stem in ('cifar', 'cifar-pool'), zero_residual=zero_init_residual)
        if channels_last is not False:
            for layer, module in enumerate([self.conv1, *self._stages()], start=1):
                module.to(memory_format=self._memory_format(layer))

    def depths(self) -> dict[str, int]:
        """Return the layer of each parameter, from 0, the stem, for layer-wise decay."""
        names = (name for name, _ in self.named_parameters())
        return {name: int(name[5 : name.index('.')]) if name.startswith('layer') else 0 for name in names}

    def _stages(self) -> list[nn.Module]:
        return [getattr(self, f'layer{i}') for i in range(1, self.num_stages + 1)]

    def _memory_format(self, layer: int) -> torch.memory_format:
        last = self.channels_last is True or layer <= self.channels_last
        return torch.channels_last if last else torch.contiguous_format

    def _make_stage(
        self, block: type[BasicBlock] | type[Bottleneck], channels: int, planes: int, num_blocks: int, stride: int
    ) -> nn.Sequential:
        downsample = None
        if stride != 1 or channels != planes * block.expansion:
            conv = conv1x1(channels, planes * block.expansion, stride)
            downsample = nn.Sequential(conv, self._norm(planes * block.expansion))
        layers = [block(channels, planes, stride, downsample, norm_layer=self._norm)]
        for _ in range(1, num_blocks):
            layers.append(block(planes * block.expansion, planes, norm_layer=self._norm))
        return nn.Sequential(*layers)

    def _init_parameters(self, default_stem: bool, zero_residual: bool) -> None:
        for module in self.modules():
            if zero_residual and isinstance(module, (BasicBlock, Bottleneck)):
                last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
                nn.init.zeros_(last.weight)
            if isinstance(module, nn.Conv2d) and not (default_stem and module is self.conv1):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')

    def forward(self, x: Tensor, layer: int | None = None) -> Tensor:
        """Return features (N, D) of images ``x`` (N, C, H, W), or with ``layer`` the map (N, D', H', W') after it.

        Layer 1 is the stem with its max-pool, 2 the first stage, and so on; one more than the last is the features.
        """
        split = self.training and self.num_splits > 1 and self.channels_last is not False
        if split:
            x = group_samples(x, self.num_splits)
        layers: list[Callable[[Tensor], Tensor]] = [self._stem, *self._stages()]
        for i, stage in enumerate(layers, start=1):
            if self.channels_last is not False:
                x = x.contiguous(memory_format=self._memory_format(i))
            x = stage(x)
            if i == layer:
                break
        else:
            x = x.mean((2, 3))
        return ungroup_samples(x, self.num_splits) if split else x

    def _stem(self, x: Tensor) -> Tensor:
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))
