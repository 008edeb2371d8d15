"""CMC's two half-width ResNets and PIC's ResNet with a deterministic fill."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fixtures import Golden
from test_golden_networks import check_network, fill, weights
from torch import Tensor, nn

from unmix.registry import MODELS

pytestmark = pytest.mark.slow


def read_keys(golden: Golden) -> dict:
    return json.loads(Path(str(golden.path).replace('.npz', '.keys.json')).read_text(encoding='utf-8'))


def depth_of(name: str) -> int:
    """50 of ``resnet50v1``."""
    return int(name.removeprefix('resnet').split('v')[0])


def pic_name(name: str) -> str:
    name = name.removeprefix('module.').removeprefix('encoder.')
    for ours, theirs in (('neck.layers.0', 'fc1'), ('neck.layers.2', 'fc2'), ('neck.fc', 'fc')):
        if name.startswith(theirs + '.'):
            return ours + name.removeprefix(theirs)
    return f'backbone.{name}'


@pytest.mark.golden('c06_pic_resnet*')
def test_pic_resnet(golden: Golden) -> None:
    hp, keys = golden.hp, read_keys(golden)
    names = {name: pic_name(name) for name, _ in keys['tensors_in_fill_order']}
    shapes = {names[name]: shape for name, shape in keys['tensors_in_fill_order']}
    if 'neck.fc.weight' in shapes:
        neck = dict(type='LinearNeck', in_dim=shapes['neck.fc.weight'][1], out_dim=hp['low_dim'])
    else:
        hidden_dim, in_dim = shapes['neck.layers.0.weight']
        neck = dict(type='MLPNeck', in_dim=in_dim, hidden_dim=hidden_dim, out_dim=hp['low_dim'])
    check_network(golden, dict(type='ResNet', depth=depth_of(hp['arch'])), neck, names)


def cmc_name(name: str) -> str:
    branch, rest = name.removeprefix('encoder.module.').split('.', 1)
    if rest.startswith('fc.'):
        return f'neck.necks.{branch == "ab_to_l":d}.{rest}'
    return f'backbone.{branch}.{rest}'


def filled(golden: Golden, keys: dict, name: Callable[[str], str]) -> dict[str, Tensor]:
    tensors = [(key, tuple(shape)) for key, shape in keys['tensors_in_fill_order']]
    return {name(key): torch.from_numpy(value) for key, value in weights(tensors, golden.hp['c0']).items()}


@pytest.mark.golden('c06_cmc_resnet*')
def test_cmc_resnet(golden: Golden) -> None:
    hp, keys = golden.hp, read_keys(golden)
    state = filled(golden, keys, cmc_name)
    stem_width, planes = (len(state[f'backbone.l_to_ab.{name}conv1.weight']) for name in ('', 'layer1.0.'))
    dim, in_dim = state['neck.necks.0.fc.weight'].shape
    branch = dict(type='ResNet', depth=depth_of(hp['name']), width=planes, stem_width=stem_width)
    head = dict(type='CMCHead', num_instances=4, dim=dim, num_negatives=1)
    neck = dict(type='TwoBranchNeck', neck=dict(type='LinearNeck', in_dim=in_dim, out_dim=dim))
    config = dict(type='CMC', backbone=dict(type='TwoBranch', branch=branch), neck=neck, head=head)
    model: nn.Module = MODELS.build(config).to(**golden.factory)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith('num_batches_tracked') or name.startswith('head.') for name in missing)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    assert sum(parameter.numel() for parameter in parameters.values()) == golden['param_count']

    images = torch.from_numpy(fill(tuple(hp['input_shapes'][0]), 100000, hp['c0'])).to(**golden.factory)
    with torch.no_grad():
        for b, output in enumerate(model.eval().encode(images).unbind(1)):
            golden.check(output, f'eval{b}')
    loss = images.new_zeros(())
    for b, output in enumerate(model.train().encode(images).unbind(1)):
        golden.check(output, f'train{b}')
        gradient = torch.from_numpy(fill(tuple(output.shape), 200000 + b, hp['c0'])).to(**golden.factory)
        loss = loss + (output * gradient).sum()
    golden.check(loss, 'loss')
    loss.backward()
    gradients = [parameters[cmc_name(name)].grad for name in keys['parameters']]
    golden.check(torch.stack([torch.stack([g.sum(), g.norm()]) for g in gradients]), 'grad_sum_norm')
    buffers = dict(model.named_buffers())
    running = [buffers[cmc_name(name)] for name, _ in keys['tensors_in_fill_order'] if 'running_' in name]
    golden.check(torch.stack([torch.stack([b.sum(), b.norm()]) for b in running]), 'bn_sum_norm')
