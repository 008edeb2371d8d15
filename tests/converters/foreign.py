"""Checkpoints of other codes with random weights, and the networks that made them."""

import gzip
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

KEYS = Path(__file__).resolve().parents[1] / 'golden' / 'data' / 'c14_checkpoint_keys.json.gz'


def published() -> dict[str, dict[str, Any]]:
    """Names and shapes of the published checkpoints."""
    return json.loads(gzip.decompress(KEYS.read_bytes()))


def random_tensors(keys: Iterable[tuple[str, list[int], str]], seed: int = 0) -> dict[str, Tensor]:
    """Tensors of these names and shapes, of a scale that keeps features of a deep network near 1."""
    pool = torch.randn(1 << 23, generator=torch.Generator().manual_seed(seed))
    tensors: dict[str, Tensor] = {}
    for position, (name, shape, dtype) in enumerate(keys):
        if dtype == 'int64':
            tensors[name] = torch.full(shape, position)
            continue
        size, start = math.prod(shape), 7919 * position % (1 << 20)
        repeated = pool.repeat(-(-(size + start) // len(pool))) if size + start > len(pool) else pool
        value = repeated[start : start + size].view(shape)
        if len(shape) > 1:
            value = value * math.sqrt(2 * shape[0] / size)
        elif name.endswith('running_var'):
            value = 1 + 0.2 * value.abs()
        else:
            value = 1 + 0.1 * value if name.endswith('weight') else 0.1 * value
        tensors[name] = value.clone()
    return tensors


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give a network random weights, running statistics included."""
    keys = [(name, list(x.shape), str(x.dtype).removeprefix('torch.')) for name, x in network.state_dict().items()]
    network.load_state_dict(random_tensors(keys, seed))
    return network.eval()


def torchvision_network(arch: str, small: bool = False, padding: int = 1) -> nn.Module:
    """torchvision's ResNet without classifier; ``bottleneck18`` is SwAV's network for CIFAR."""
    if arch == 'bottleneck18':
        network = ResNet(Bottleneck, [2, 2, 2, 2])
    else:
        network = dict(resnet18=resnet18, resnet50=resnet50)[arch]()
    network.fc = nn.Identity()
    if small:
        network.conv1 = nn.Conv2d(3, 64, 3, padding=padding, bias=False)
        network.maxpool = nn.Identity()
    return network


def half_resnet50(channels: int) -> nn.Module:
    """CMC's encoder: ResNet-50 with a full stem and stages of half the width, for images of so many channels."""
    network = torchvision_network('resnet50')
    network.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    network.inplanes = 64
    for i, blocks in enumerate((3, 4, 6, 3)):
        stage = network._make_layer(Bottleneck, 32 * 2**i, blocks, stride=2 if i else 1)
        setattr(network, f'layer{i + 1}', stage)
    return network


def narrow_resnet(small: bool = False, padding: int = 1) -> ResNet:
    """torchvision's ResNet of two blocks a stage at an eighth of the width."""
    network = ResNet(BasicBlock, [2, 2, 2, 2])
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            parent = network.get_submodule(name.rpartition('.')[0])
            setattr(parent, name.rpartition('.')[2], narrow(module))
    network.fc = nn.Identity()
    if small:
        network.conv1 = nn.Conv2d(3, 8, 3, padding=padding, bias=False)
        network.maxpool = nn.Identity()
    return network


def narrow(module: nn.Conv2d | nn.BatchNorm2d) -> nn.Module:
    """The same layer with an eighth of the channels, the three of an image excepted."""
    if isinstance(module, nn.BatchNorm2d):
        return nn.BatchNorm2d(module.num_features // 8)
    channels = module.in_channels if module.in_channels == 3 else module.in_channels // 8
    return nn.Conv2d(channels, module.out_channels // 8, module.kernel_size, module.stride, module.padding, bias=False)
