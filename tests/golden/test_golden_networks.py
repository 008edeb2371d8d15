"""ResNets with a deterministic fill against the released networks: outputs, gradients, running statistics."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures import Golden
from torch import Tensor, nn

from unmix.models import SplitBatchNorm
from unmix.registry import MODELS


def fill(shape: tuple[int, ...], position: int, offset: int) -> np.ndarray:
    """The fixtures' fill in [-1, 1): exact integer arithmetic on flat index and tensor position."""
    i = np.arange(int(np.prod(shape)), dtype=np.int64)
    u = ((31 * i * i + 17 * i + 101 * position + offset) % 1000003) / 1000003
    return (2 * u - 1).reshape(shape)


def weights(tensors: list[tuple[str, tuple[int, ...]]], offset: int) -> dict[str, np.ndarray]:
    """Fill the tensors of a state dict by the fixtures' rule."""
    filled = {}
    for position, (name, shape) in enumerate(tensors):
        value = fill(shape, position, offset)
        if len(shape) > 1:
            value = value * np.sqrt(6 / (np.prod(shape) / shape[0]))
        elif name.endswith('running_mean'):
            value = 0.1 * value
        elif name.endswith('running_var'):
            value = 1 + 0.25 * (value + 1)
        else:
            value = 1 + 0.2 * value if name.endswith('weight') else 0.2 * value
        filled[name] = value
    return filled


def cifar_name(name: str) -> str:
    """Our name of a parameter of the released CIFAR network (``net.0`` stem, 1 norm, 3-6 stages, 9 projection)."""
    index, rest = name.removeprefix('net.').split('.', 1)
    places = {'0': 'backbone.conv1', '1': 'backbone.bn1', '9': 'neck.fc'}
    return f'{places.get(index, f"backbone.layer{int(index) - 2}")}.{rest}'


def moco_name(name: str) -> str:
    """Name in a torchvision ResNet whose ``fc`` is a linear layer or a perceptron, as ours."""
    if name.startswith('fc.'):
        rest = name.removeprefix('fc.')
        return f'neck.layers.{rest}' if rest[0].isdigit() else f'neck.fc.{rest}'
    return f'backbone.{name}'


def check_network(golden: Golden, backbone: dict, neck: dict, names: Mapping[str, str]) -> None:
    """Fill, evaluate, run one training pass; compare outputs, gradients and running statistics."""
    keys = json.loads(Path(str(golden.path).replace('.npz', '.keys.json')).read_text(encoding='utf-8'))
    tensors = [(name, tuple(shape)) for name, shape in keys['tensors_in_fill_order']]
    net = nn.ModuleDict(dict(backbone=MODELS.build(backbone), neck=MODELS.build(neck))).to(**golden.factory)
    offset = golden.hp['c0']
    state = {names[name]: torch.from_numpy(value) for name, value in weights(tensors, offset).items()}
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith('num_batches_tracked') for name in missing)
    parameters = dict(net.named_parameters())
    assert sum(parameter.numel() for parameter in parameters.values()) == golden['param_count']

    (shape,) = golden.hp['input_shapes']
    images = torch.from_numpy(fill(tuple(shape), 100000, offset)).to(**golden.factory)

    def forward() -> Tensor:
        return net['neck'](net['backbone'](images))

    net.eval()
    with torch.no_grad():
        golden.check(forward(), 'eval0')
    net.train()
    output = forward()
    golden.check(output, 'train0')
    loss = (output * torch.from_numpy(fill(tuple(output.shape), 200000, offset)).to(**golden.factory)).sum()
    golden.check(loss, 'loss')
    loss.backward()
    sums = [parameters[names[name]].grad for name in keys['parameters']]
    golden.check(torch.stack([torch.stack([g.sum(), g.norm()]) for g in sums]), 'grad_sum_norm')
    buffers = dict(net.named_buffers())
    running = [buffers[names[name]] for name, _ in tensors if 'running_' in name]
    golden.check(torch.stack([torch.stack([b.sum(), b.norm()]) for b in running]), 'bn_sum_norm')


@pytest.mark.golden('c06_resnet*_cifar_unmix*')
@pytest.mark.slow
def test_cifar_resnet(golden: Golden) -> None:
    keys = json.loads(Path(str(golden.path).replace('.npz', '.keys.json')).read_text(encoding='utf-8'))
    names = {name: cifar_name(name) for name, _ in keys['tensors_in_fill_order']}
    hp = golden.hp
    depth = int(''.join(c for c in hp.get('arch', golden.path.name.split('_')[1]) if c.isdigit()))
    in_dim = next(shape[1] for name, shape in keys['tensors_in_fill_order'] if names[name] == 'neck.fc.weight')
    backbone = dict(
        type='ResNet', depth=depth, stem='cifar', num_splits=hp['bn_splits'], in_channels=hp['input_shapes'][0][1]
    )
    check_network(golden, backbone, dict(type='LinearNeck', in_dim=in_dim, out_dim=hp['feature_dim']), names)


@pytest.mark.golden('c06_tv_*')
@pytest.mark.slow
def test_torchvision_resnet(golden: Golden) -> None:
    keys = json.loads(Path(str(golden.path).replace('.npz', '.keys.json')).read_text(encoding='utf-8'))
    shapes = {moco_name(name): shape for name, shape in keys['tensors_in_fill_order']}
    names = {name: moco_name(name) for name, _ in keys['tensors_in_fill_order']}
    depth = int(golden.hp['arch'].removeprefix('resnet'))
    if 'neck.fc.weight' in shapes:
        out_dim, in_dim = shapes['neck.fc.weight']
        neck = dict(type='LinearNeck', in_dim=in_dim, out_dim=out_dim)
    else:
        hidden_dim, in_dim = shapes['neck.layers.0.weight']
        out_dim = shapes['neck.layers.2.weight'][0]
        neck = dict(type='MLPNeck', in_dim=in_dim, hidden_dim=hidden_dim, out_dim=out_dim)
    backbone = dict(type='ResNet', depth=depth, in_channels=golden.hp['input_shapes'][0][1])
    check_network(golden, backbone, neck, names)


@pytest.mark.golden('c05_*')
def test_split_batch_norm(golden: Golden) -> None:
    hp = golden.hp
    x, gradient = golden.tensor('in_x'), golden.tensor('in_gy')
    norm = SplitBatchNorm(x.shape[2], hp['num_splits'], momentum=hp['momentum'], eps=hp['eps']).to(**golden.factory)
    state = dict(weight='in_weight', bias='in_bias', running_mean='in_running_mean0', running_var='in_running_var0')
    norm.load_state_dict({name: golden.tensor(key) for name, key in state.items()}, strict=False)
    for step in range(len(x)):
        norm.train(step < len(x) - 1)
        norm.zero_grad()
        images = x[step].clone().requires_grad_()
        y = norm(images)
        y.backward(gradient[step])
        expected = dict(y=y, gx=images.grad, gw=norm.weight.grad, gb=norm.bias.grad)
        for name, value in {**expected, 'rm': norm.running_mean, 'rv': norm.running_var}.items():
            golden.check(value, name, step)
    assert norm.num_batches_tracked == 0
