"""Linear and semi-supervised protocols: the first steps against a naive loop in float64, the schedules to their ends.

The numbers here are written from the descriptions of the published protocols, not from the configs.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from unmix.apis import build_runner, load_config
from unmix.datasets import ArrayDataset
from unmix.registry import DATASETS, METRICS

BATCH, STEPS, EPOCHS, CLASSES, SIDE = 5, 2, 3, 4, 32
IMAGENET_STEPS = 1281167 // 256  # PIC's epoch without the tail


@DATASETS.register_module(force=True)
class FewImages(ArrayDataset):
    """Random colour images of four classes."""

    def __init__(self, pipeline: Any = None) -> None:
        rng = torch.Generator().manual_seed(2)
        images = torch.randint(256, (BATCH * STEPS, 3, SIDE, SIDE), generator=rng, dtype=torch.uint8)
        super().__init__(images, torch.arange(len(images)) % CLASSES, pipeline)


def by_steps(lr: float, milestones: tuple[int, ...], gamma: float) -> Any:
    return lambda epoch, i: lr * gamma ** sum(epoch >= m for m in milestones)


def pic(epoch: int, i: int) -> float:
    """Linear from a hundredth over 5 epochs of ImageNet, then half a cosine to 1e-6, both in iterations."""
    warm, total = 5 * IMAGENET_STEPS, 95 * IMAGENET_STEPS
    if i <= warm:
        return 30 / 100 * (99 * i / warm + 1)
    return 1e-6 + (30 - 1e-6) * (1 + math.cos(math.pi * (i - warm) / total)) / 2


class Recipe(NamedTuple):
    """A protocol: rate of (epoch, iteration), both from 0; weight decay; std of the first weights; scale of crops."""

    rate: Any
    decay: float = 0.0
    std: float | None = 0.01
    batch: int = 256
    red: tuple[float, float] = (0.485, 0.229)  # mean and std of the first channel
    scale: tuple[float, float] = (0.08, 1.0)
    epochs: int = 100
    train_bn: bool = False
    drop_last: bool = False
    backbone_rate: Any = None  # fine-tuning
    lrs: tuple[float, ...] = (1.0,)  # factors of the rate, a layer each
    changes: dict = {}


MOCO = by_steps(30, (60, 80), 0.1)
SWAV_STD, CIFAR_MEAN = 0.228, 0.4914


def swav(epoch: int, i: int) -> float:
    return 0.5 * 0.3 * (1 + math.cos(math.pi * epoch / 100))


def cmc(changes: dict) -> Recipe:
    red = (50.0 / 255, 50.0 / 255)  # lightness
    return Recipe(by_steps(30, (30, 40, 50), 0.2), red=red, scale=(0.2, 1.0), epochs=60, changes=changes)


def semi(head: float, backbone: float) -> Recipe:
    rates = (by_steps(rate, (12, 16), 0.2) for rate in (head, backbone))
    return Recipe(next(rates), std=None, red=(0.485, SWAV_STD), epochs=20, train_bn=True, backbone_rate=next(rates))


CMC, SEMI = 'linear-cmc-lab_resnet50-half_1xb256-steplr-60e_in1k', 'semi_resnet50_8xb32-steplr-20e_in1k'
LRS = tuple(lr / 30 for lr in (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03))
RECIPES = {
    'linear_resnet50_8xb32-steplr-100e_in1k': Recipe(MOCO),
    'linear-lrs_resnet50_8xb32-steplr-100e_in1k': Recipe(MOCO, lrs=LRS),
    'linear_resnet18_1xb256-steplr-100e_cifar10': Recipe(MOCO, red=(CIFAR_MEAN, 0.2023)),
    'linear-swav_resnet50_8xb32-coslr-100e_in1k': Recipe(swav, 1e-6, red=(0.485, SWAV_STD)),
    'linear-swav_resnet26_1xb32-coslr-100e_cifar10': Recipe(swav, 1e-6, batch=32, red=(CIFAR_MEAN, 0.2470)),
    'linear-pic_resnet50_4xb64-coslr-100e_in1k': Recipe(pic, std=None, train_bn=True, drop_last=True),
    CMC: cmc({}),
    f'{CMC} 2': cmc({'model.layer': 2, 'model.pool': 6}),
    f'{SEMI}-10p': semi(0.2, 0.01),
    f'{SEMI}-1p': semi(5.0, 0.02),
}


class Recorder(Hook):
    """Notes labels, and what the head and the first layer of the backbone met; ends after a few epochs."""

    priority = 'LOWEST'

    def __init__(self, model: Any) -> None:
        self.features: list[Any] = []
        self.labels: list[Any] = []
        self.modes: list[set[bool]] = []
        self.gradients: list[Any] = []
        norms = [m for m in model.backbone.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        model.head.double()
        model.head.register_forward_pre_hook(lambda module, args: (self.note(norms, args[0]), args[1]))
        self.first = next(model.backbone.parameters())
        if self.first.requires_grad:
            self.first.register_hook(lambda gradient: self.gradients.append(gradient.clone().numpy()))

    def note(self, norms: list[Any], features: Any) -> Any:
        self.features.append(features.detach().double().numpy())
        self.modes.append({norm.training for norm in norms})
        return features.double()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.labels.append(data_batch['label'].numpy())

    def after_train_epoch(self, runner):
        runner.train_loop.stop_training = runner.epoch + 1 >= EPOCHS


def small(name: str, work_dir: Any, recipe: Recipe) -> Any:
    """The config with a narrow network, random images and small batches, for two steps an epoch."""
    name = name.split(' ')[0]
    cfg = load_config(f'unmix::benchmarks/{name}.py', recipe.changes)
    processes = int(name.split('xb')[0].rsplit('_', 1)[1])
    assert cfg.train_dataloader.batch_size * processes == recipe.batch
    assert cfg.train_dataloader.get('drop_last', False) is recipe.drop_last
    assert cfg.train_cfg.max_epochs == recipe.epochs
    dataset = cfg.train_dataloader.dataset
    pipeline = dataset.get('dataset', dataset).pipeline
    crop, flip = pipeline.transforms
    assert (crop.type, tuple(crop.get('scale', (0.08, 1.0)))) == ('RandomResizedCrop', recipe.scale)
    assert flip.type == 'RandomHorizontalFlip'
    crop.size = SIDE
    cfg.train_dataloader.batch_size, cfg.train_dataloader.num_workers = BATCH, 0
    cfg.train_dataloader.dataset = dict(type='FewImages', pipeline=pipeline)
    cfg.train_dataloader.pop('persistent_workers', None)
    backbone = cfg.model.backbone.get('branch', cfg.model.backbone)
    backbone.update(width=4, depth=26 if backbone.depth > 18 else 18)
    if 'stem_width' in backbone:
        backbone.stem_width = 4
    cfg.model.head.num_classes = CLASSES
    cfg.model.control = False
    cfg.train_cfg.val_interval = 10**6
    cfg.default_hooks.checkpoint = None
    for stage in ('val', 'test'):
        cfg[f'{stage}_cfg'] = cfg[f'{stage}_dataloader'] = cfg[f'{stage}_evaluator'] = None
    cfg.pop('sync_bn', None)  # on GPUs only
    cfg.work_dir, cfg.launcher, cfg.experiment_name = str(work_dir), 'none', work_dir.name
    return cfg


def naive(weights: list[Any], record: Recorder, recipe: Recipe, factor: float) -> list[Any]:
    """SGD with momentum 0.9 on the mean cross-entropy, a sample at a time."""
    velocity = [np.zeros_like(w) for w in weights]
    for i, (x, y) in enumerate(zip(record.features, record.labels, strict=True)):
        gradient = [np.zeros_like(w) for w in weights]
        for row, label in zip(x, y, strict=True):
            scores = weights[0] @ row + weights[1]
            p = np.exp(scores - scores.max())
            p = p / p.sum()
            p[label] -= 1
            gradient[0] += np.outer(p, row) / len(x)
            gradient[1] += p / len(x)
        lr = factor * recipe.rate(i // STEPS, i)
        for j in (0, 1):
            velocity[j] = 0.9 * velocity[j] + gradient[j] + recipe.decay * weights[j]
            weights[j] = weights[j] - lr * velocity[j]
    return weights


@pytest.mark.slow
@pytest.mark.parametrize('name', RECIPES)
def test_first_steps_and_schedule(name: str, tmp_path: Any) -> None:
    recipe = RECIPES[name]
    runner = build_runner(small(name, tmp_path, recipe))
    model = runner.model
    mean, std = (getattr(model.data_preprocessor, key).flatten()[0].item() for key in ('mean', 'std'))
    assert (mean, std) == pytest.approx([255 * value for value in recipe.red], rel=1e-6)
    record = Recorder(model)
    runner.register_hook(record)
    start = {}

    class Start(Hook):  # after the initialisation
        def before_train(self, runner):
            start.update({name: value.clone() for name, value in model.state_dict().items()})

    runner.register_hook(Start())
    runner.train()
    assert runner.iter == EPOCHS * STEPS
    layers = [f'head.fc.{i}.' for i in range(len(recipe.lrs))] if len(recipe.lrs) > 1 else ['head.fc.']
    for layer, factor in zip(layers, recipe.lrs, strict=True):
        first = [start[layer + key].numpy().copy() for key in ('weight', 'bias')]
        if recipe.std is None:
            assert 0 < abs(first[1]).max() <= 1 / math.sqrt(first[0].shape[1])
        else:
            assert first[0].std() == pytest.approx(recipe.std, rel=0.25)
            assert not first[1].any()
        expected = naive(first, record, recipe, factor)
        for key, wanted in zip(('weight', 'bias'), expected, strict=True):
            np.testing.assert_allclose(model.state_dict()[layer + key].numpy(), wanted, rtol=1e-8, atol=1e-10)
    assert record.modes == [{recipe.train_bn}] * (EPOCHS * STEPS)
    check_backbone(model, start, record, recipe)
    check_schedule(runner, recipe)


def check_backbone(model: Any, start: dict, record: Recorder, recipe: Recipe) -> None:
    """A frozen backbone is the checkpoint's, bit for bit, but for BatchNorm's statistics in training mode."""
    for key, value in model.state_dict().items():
        statistic = key.rsplit('.', 1)[1] in ('running_mean', 'running_var', 'num_batches_tracked')
        if key.startswith('backbone.') and (statistic or recipe.backbone_rate is None):
            assert torch.equal(value, start[key]) is not (recipe.train_bn and statistic), key
    if recipe.backbone_rate is not None:
        weight = next(value for key, value in start.items() if key.startswith('backbone.')).numpy()
        velocity = np.zeros_like(weight)
        for i, gradient in enumerate(record.gradients):
            velocity = 0.9 * velocity + gradient
            weight = weight - recipe.backbone_rate(i // STEPS, i) * velocity
        np.testing.assert_allclose(record.first.detach().numpy(), weight, rtol=1e-4, atol=1e-6)


def check_schedule(runner: Any, recipe: Recipe) -> None:
    """The rates of the epochs that follow, or of the iterations past the warm-up."""
    by_epoch = runner.param_schedulers[0].by_epoch
    groups = runner.optim_wrapper.optimizer.param_groups
    done = EPOCHS if by_epoch else EPOCHS * STEPS
    for n in range(done, recipe.epochs if by_epoch else 5 * IMAGENET_STEPS + 3):
        got = groups[-1]['lr'] / recipe.lrs[-1]
        assert got == pytest.approx(recipe.rate(n, n), rel=1e-6)
        if recipe.backbone_rate is not None:
            assert groups[0]['lr'] == pytest.approx(recipe.backbone_rate(n, n), rel=1e-6)
        for scheduler in runner.param_schedulers:
            scheduler.step()


def test_htdt_config_is_its_recipe() -> None:
    """The steps themselves are tested with :class:`LinearTraining`."""
    neighbours, linear, logistic = (
        METRICS.build(dict(cfg, _scope_='unmix'))
        for cfg in load_config('unmix::benchmarks/frozen-htdt-resnet18_cifar10.py').test_evaluator
    )
    assert neighbours.k == [5]
    assert (linear.lrs, linear.epochs, linear.batch_size, linear.std) == ([1e-2], 500, 1000, None)
    assert linear.optimizer == dict(type='Adam', weight_decay=5e-6)
    assert linear.scheduler['type'] == 'ExponentialLR'
    assert linear.lrs[0] * linear.scheduler['gamma'] ** 500 == pytest.approx(1e-6)
    assert (logistic.C, logistic.standardize, logistic.max_iter) == (1.0, False, 1000)
