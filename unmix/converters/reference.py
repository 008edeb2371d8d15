"""A ResNet computed from the tensors of a foreign checkpoint, by their foreign names, without this package's modules.

It is what conversions are proved against. Shapes: N images, C channels, D features.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from unmix.converters.family import Encoder, Layout

Tensors = Mapping[str, Tensor]


def norm(tensors: Tensors, name: str, x: Tensor) -> Tensor:
    """Batch normalisation ``name`` by its running statistics."""
    mean, var = tensors[f'{name}.running_mean'], tensors[f'{name}.running_var']
    return F.batch_norm(x, mean, var, tensors.get(f'{name}.weight'), tensors.get(f'{name}.bias'))


def block(tensors: Tensors, name: str, layout: Layout, x: Tensor, stride: int) -> Tensor:
    """One residual block: two 3x3 convolutions, or 1x1, 3x3, 1x1; the first 3x3 one has the stride."""
    convs = [layout.conv.replace('#', str(i)) for i in (1, 2, 3)]
    convs = [conv for conv in convs if f'{name}.{conv}.weight' in tensors]
    strides = (1, stride, 1) if len(convs) == 3 else (stride, 1)
    y = x
    for i, (conv, step) in enumerate(zip(convs, strides, strict=True), 1):
        weight = tensors[f'{name}.{conv}.weight']
        y = F.conv2d(y, weight, stride=step, padding=weight.shape[-1] // 2)
        y = norm(tensors, f'{name}.{layout.norm.replace("#", str(i))}', y)
        y = y.relu() if i < len(convs) else y
    conv, batch_norm = (f'{name}.{part}' for part in layout.shortcut)
    if f'{conv}.weight' in tensors:
        x = norm(tensors, batch_norm, F.conv2d(x, tensors[f'{conv}.weight'], stride=stride))
    return (x + y).relu()


def resnet(tensors: Tensors, branch: str, layout: Layout, stem: Mapping[str, Any], x: Tensor) -> Tensor:
    """Return pooled features (N, D) of images ``x`` (N, C, H, W) by the ResNet whose names begin with ``branch``."""
    weight = tensors[f'{branch}{layout.stem}.weight']
    x = F.conv2d(x, weight, stride=stem['stride'], padding=stem['padding'])
    x = norm(tensors, branch + layout.stem_norm, x).relu()
    x = F.max_pool2d(x, 3, stride=2, padding=1) if stem.get('maxpool') else x
    first = layout.conv.replace('#', '1')
    for i, stage in enumerate(layout.stages):
        j = 0
        while f'{branch}{stage}.{j}.{first}.weight' in tensors:
            x = block(tensors, f'{branch}{stage}.{j}', layout, x, stride=2 if i and not j else 1)
            j += 1
    return x.mean((2, 3))


def layers_of(tensors: Tensors, form: str, branch: str) -> list[str] | None:
    """Return the layers of one form of a head, or None if the checkpoint has not this form."""
    layers: list[str] = []
    for layer in form.split():
        name = layer.replace('~', branch)
        if not name.endswith('.#'):
            layers.append(name)
            continue
        pattern = re.compile(re.escape(name[:-1]) + r'(\d+)\.')
        indices = {int(match[1]) for match in map(pattern.match, tensors) if match}
        if not indices:
            return None
        layers += [f'{name[:-1]}{i}' if i in indices else 'relu' for i in range(max(indices) + 1)]
    there = [f'{name}.weight' in tensors or f'{name}.running_mean' in tensors for name in layers if name != 'relu']
    return layers if all(there) else None


def head(tensors: Tensors, layers: list[str], x: Tensor) -> Tensor:
    """Apply linear layers, batch normalisations and ReLUs to features (N, D)."""
    for name in layers:
        if name == 'relu':
            x = x.relu()
        elif f'{name}.running_mean' in tensors:
            x = norm(tensors, name, x)
        else:
            x = F.linear(x, tensors[f'{name}.weight'], tensors.get(f'{name}.bias'))
    return x


@torch.no_grad()
def forward(tensors: Tensors, encoder: Encoder, stem: Mapping[str, Any], images: Tensor) -> dict[str, Tensor]:
    """Return the outputs (N, D) of the backbone and of each head that the checkpoint has, by our names of them."""
    widths = [tensors[f'{branch}{encoder.layout.stem}.weight'].shape[1] for branch in encoder.branches]
    parts = images.split(widths, dim=1)
    features = [
        resnet(tensors, branch, encoder.layout, stem, part)
        for branch, part in zip(encoder.branches, parts, strict=True)
    ]
    outputs = {'backbone': torch.cat(features, 1)}
    for name, forms in encoder.heads.items():
        for form in forms:
            layers = [layers_of(tensors, form, branch) for branch in encoder.branches]
            if None not in layers:
                features = [head(tensors, own or [], x) for own, x in zip(layers, features, strict=True)]
                outputs[name] = torch.cat(features, 1)
                break
    return outputs
