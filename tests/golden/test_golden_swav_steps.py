"""Whole steps of Un-Mix SwAV, and its networks: joint BatchNorm of crops and mixtures, LARC, frozen prototypes."""

import json
from pathlib import Path

import pytest
import torch
from fixtures import Golden
from swav_networks import build_swav, newest_first, record_unmix, replay_mixing
from test_golden_networks import fill, weights

from unmix.engine.optimizers import LARC
from unmix.models import SwAV
from unmix.models.backbones.resnet import ARCHITECTURES
from unmix.registry import MODELS


def our_name(name: str) -> str:
    """Our name of a tensor of the released network."""
    if name.startswith('projection_head.'):
        return f'neck.layers.{name.removeprefix("projection_head.")}'
    return f'head.{name}' if name.startswith('prototypes.') else f'backbone.{name}'


def neck_config(shapes: dict[str, tuple[int, ...]]) -> dict:
    hidden_dim, in_dim = shapes['projection_head.0.weight']
    out_dim = shapes['projection_head.3.weight'][0]
    return dict(type='MLPNeck', in_dim=in_dim, hidden_dim=hidden_dim, out_dim=out_dim, norm=True, hidden_bias=True)


def slack(golden: Golden, name: str) -> float:
    """Factor of the tolerance: LARC scales a gradient of rounding noise, that of a bias before a BatchNorm, to size."""
    if golden.dtype == torch.float32 and name == 'projection_head.0.bias':
        return max(1.0, 5e-2 / golden.tolerance)
    return 1.0


@pytest.mark.golden('c10_step_unmix_swav_*')
def test_steps(golden: Golden) -> None:
    hp, initial = golden.hp, golden.named('w0_')
    shapes = {name: array.shape for name, array in initial.items()}
    channels = (shapes['conv1.weight'][1], shapes['conv1.weight'][0], shapes['conv2.weight'][0])
    model = build_swav(golden, dict(type='GoldenEncoder', channels=channels), neck_config(shapes))
    state = {our_name(name): torch.from_numpy(array) for name, array in initial.items()}
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    optimizer = LARC(model.parameters(), lr=1.0, momentum=hp['sgd_momentum'], weight_decay=hp['weight_decay'])
    record = record_unmix(model)
    for step in range(hp['steps']):
        optimizer.param_groups[0]['lr'] = float(golden['lr'][step])
        replay_mixing(model, golden, step)
        losses = model.loss([golden.tensor(f'img_u8_{i}')[step] for i in range(len(hp['sizes']))])
        total = sum(losses.values())
        golden.check(total, 'total', step)
        golden.check(torch.stack([losses['loss_base'], *record['terms']]), 'terms', step)
        optimizer.zero_grad()
        total.backward()
        if step == 0:
            gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
            for name, expected in golden.named(f'{golden.prefix}g1_').items():
                golden.compare(gradients[our_name(name)], expected, f'g1_{name}')
        model.before_step()
        optimizer.step()
        model.after_step(stepped=step < hp['steps'] - 1)  # the release scales prototypes before a step, not after it
    final = model.state_dict()
    for name, expected in golden.named(f'{golden.prefix}final_').items():
        golden.compare(final[our_name(name)], expected, f'final_{name}', slack(golden, name))
    if hp['queue_length']:
        golden.check(newest_first(model, hp['bs']), 'queue')


def build_network(golden: Golden, shapes: dict[str, tuple[int, ...]]) -> SwAV:
    """SwAV with the network whose tensors have these shapes; a 3x3 stem has stride 1 and padding 2, as released."""
    block = 'Bottleneck' if 'layer1.0.conv3.weight' in shapes else 'BasicBlock'
    blocks = tuple(len({n.split('.')[1] for n in shapes if n.startswith(f'layer{i}.')}) for i in range(1, 5))
    depth = next(depth for depth, (kind, nums) in ARCHITECTURES.items() if (kind.__name__, nums) == (block, blocks))
    width, in_channels, kernel, _ = shapes['conv1.weight']
    stem = 'imagenet' if kernel == 7 else dict(kernel_size=kernel, stride=1, padding=2)
    num_prototypes, dim = shapes['prototypes.weight']
    return MODELS.build(
        dict(
            type='SwAV',
            backbone=dict(type='ResNet', depth=depth, in_channels=in_channels, width=width, stem=stem),
            neck=neck_config(shapes),
            head=dict(type='SwAVHead', dim=dim, num_prototypes=num_prototypes),
        )
    ).to(**golden.factory)


@pytest.mark.golden('c06_swav_*')
@pytest.mark.slow
def test_network(golden: Golden) -> None:
    keys = json.loads(Path(str(golden.path).replace('.npz', '.keys.json')).read_text(encoding='utf-8'))
    tensors = [(name, tuple(shape)) for name, shape in keys['tensors_in_fill_order']]
    offset = golden.hp['c0']
    model = build_network(golden, dict(tensors))
    filled = {our_name(name): torch.from_numpy(value) for name, value in weights(tensors, offset).items()}
    missing, unexpected = model.load_state_dict(filled, strict=False)
    assert not unexpected
    assert all(name.endswith('num_batches_tracked') for name in missing)
    assert sum(parameter.numel() for parameter in model.parameters()) == golden['param_count']
    crops = [
        torch.from_numpy(fill(tuple(shape), 100000 + j, offset)).to(**golden.factory)
        for j, shape in enumerate(golden.hp['input_shapes'])
    ]

    def forward() -> list[torch.Tensor]:
        features = model.encode_all({0: crops})[0].transpose(0, 1).flatten(0, 1)
        return [features, model.head.scores(features)]

    with torch.no_grad():
        for j, output in enumerate(forward_in_eval(model, forward)):
            golden.check(output, f'eval{j}')
    outputs = forward()
    loss = torch.zeros((), **golden.factory)
    for j, output in enumerate(outputs):
        golden.check(output, f'train{j}')
        loss = (
            loss + (output * torch.from_numpy(fill(tuple(output.shape), 200000 + j, offset)).to(**golden.factory)).sum()
        )
    golden.check(loss, 'loss')
    loss.backward()
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    sums = [parameters[our_name(name)].grad for name in keys['parameters']]
    golden.check(torch.stack([torch.stack([g.sum(), g.norm()]) for g in sums]), 'grad_sum_norm')
    running = [buffers[our_name(name)] for name, _ in tensors if 'running_' in name]
    golden.check(torch.stack([torch.stack([b.sum(), b.norm()]) for b in running]), 'bn_sum_norm')


def forward_in_eval(model, forward) -> list[torch.Tensor]:
    model.eval()
    outputs = forward()
    model.train()
    return outputs
