"""htdt's network, schedules and nearest neighbours."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures import Golden
from test_golden_networks import fill, weights
from torch import nn

from unmix.evaluation import EuclideanKNN, Features, knn_vote
from unmix.models import BYOL
from unmix.models.algorithms import byol
from unmix.registry import MODELS, PARAM_SCHEDULERS
from unmix.utils.clock import Clock, Step


@pytest.mark.slow
@pytest.mark.golden('c06_htdt*')
def test_network(golden: Golden) -> None:
    """Features and projections, gradients, and running statistics after one pass."""
    hp = golden.hp
    keys = json.loads(Path(str(golden.path).replace('.npz', '.keys.json')).read_text(encoding='utf-8'))
    tensors = [(name, tuple(shape)) for name, shape in keys['tensors_in_fill_order']]
    images_shape = tuple(hp['input_shapes'][0])
    stem = dict(kernel_size=3, stride=1, padding=1, maxpool=not hp['dataset'].startswith('cifar'))
    backbone = MODELS.build(
        dict(
            type='ResNet',
            depth=int(hp.get('arch', 'resnet18').removeprefix('resnet')),
            stem='imagenet' if hp['dataset'] == 'imagenet' else stem,
            in_channels=images_shape[1],
        )
    )
    layers = dict(
        type='MLPNeck', hidden_dim=hp['head_size'], num_layers=hp['head_layers'], norm=hp['add_bn'], hidden_bias=True
    )
    linear = hp['head_layers'] == 1
    neck = MODELS.build(dict(dict(type='LinearNeck') if linear else layers, in_dim=backbone.out_dim, out_dim=hp['emb']))
    net = nn.ModuleDict(dict(backbone=backbone, neck=neck)).to(**golden.factory)

    def ours(name: str) -> str:
        name = name.replace('model.module.', 'backbone.')
        return name.replace('head.0.', 'neck.fc.') if linear else name.replace('head.', 'neck.layers.')

    state = {ours(name): torch.from_numpy(value) for name, value in weights(tensors, hp['c0']).items()}
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith('num_batches_tracked') for name in missing)
    parameters = dict(net.named_parameters())
    assert sum(parameter.numel() for parameter in parameters.values()) == golden['param_count']

    images = torch.from_numpy(fill(images_shape, 100000, hp['c0'])).to(**golden.factory)
    with torch.no_grad():
        features = backbone.eval()(images)
        golden.check(features, 'eval0')
        golden.check(neck.eval()(features), 'eval1')
    features = backbone.train()(images)
    outputs = [features, neck.train()(features)]
    loss = torch.zeros((), **golden.factory)
    for i, output in enumerate(outputs):
        golden.check(output, f'train{i}')
        loss = loss + (output * torch.from_numpy(fill(tuple(output.shape), 200000 + i, hp['c0'])).to(output)).sum()
    golden.check(loss, 'loss')
    loss.backward()
    gradients = [parameters[ours(name)].grad for name in keys['parameters']]
    golden.check(torch.stack([torch.stack([g.sum(), g.norm()]) for g in gradients]), 'grad_sum_norm')
    buffers = dict(net.named_buffers())
    running = [buffers[ours(name)] for name, _ in tensors if 'running_' in name]
    golden.check(torch.stack([torch.stack([b.sum(), b.norm()]) for b in running]), 'bn_sum_norm')


@pytest.mark.golden('c13_knn*')
def test_nearest_neighbours(golden: Golden) -> None:
    train, test = golden.tensor('in_x_train'), golden.tensor('in_x_test')
    labels, test_labels, k = golden.tensor('y_train'), golden.tensor('y_test'), golden.hp['k']
    predicted, neighbours = knn_vote(test, train, labels, k)
    assert predicted.tolist() == golden['pred'].tolist()
    assert neighbours.tolist() == golden['neighbour_labels'].tolist()
    result = EuclideanKNN(k)(Features(train, labels), Features(test, test_labels))
    assert result['top1'] == pytest.approx(100 * golden['acc'], abs=1e-4)  # the accuracy was recorded in float32


def scheduler_config(config: dict) -> dict:
    """Our scheduler of a fixture's configuration."""
    warmup = 500 if config['lr_warmup'] else 0
    if config['lr_step'] == 'cos':
        restarts = dict(T_0=config['T0'], T_mult=config['Tmult'], eta_min=config['eta_min'])
        return dict(type='WarmupCosineLR', warmup=warmup, **restarts)
    milestones = [config['epoch'] - drop for drop in config['drop']] if config['lr_step'] == 'step' else []
    return dict(type='WarmupStepLR', warmup=warmup, milestones=milestones, gamma=config['drop_gamma'])


@pytest.mark.golden('c13_lr_schedule*')
def test_schedules(golden: Golden) -> None:
    for i, config in enumerate(golden.hp['configs']):
        optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=config['lr'])
        scheduler = PARAM_SCHEDULERS.build(
            dict(scheduler_config(config), optimizer=optimizer, convert_to_iter_based=True, end=config['epoch'])
            | dict(epoch_length=config['iters'])
        )
        rates = []
        for _ in range(config['epoch'] * config['iters']):
            rates.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            scheduler.step()
        golden.compare(np.array(rates), golden[f'lr_{i}'], f'lr_{i}')


@pytest.mark.golden('c13_lr_schedule*')
def test_progress(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """BYOL's momentum follows whole epochs: after each optimiser step, the share of epochs done before its epoch."""
    layer = dict(type='LinearNeck', in_dim=2, out_dim=2)
    model = BYOL(layer, layer, layer, dict(type='CosineHead'), momentum_by_epoch=True)
    for i, config in enumerate(golden.hp['configs']):
        epochs, length = config['epoch'], config['iters']
        for iteration in range(epochs * length):
            clock = Clock(0, iteration, epochs * length, epochs, iteration // length)
            monkeypatch.setattr(byol, 'read_clock', lambda clock=clock: clock)
            model.step = Step(iteration=iteration)
            golden.compare(model.progress(), golden[f'progress_{i}'][iteration // length], f'progress_{i}')
