"""The numbers of the SwAV and DeepCluster-v2 recipes against the released scripts."""

import pytest

from unmix.config import config_root, load_config

BIG = dict(lr=4.8, eta_min=0.0048, warmup=(10, 0.3), queue=(0, 0), freeze=313, size=64 * 64)
SMALL = dict(lr=0.6, eta_min=0.0006, warmup=(0, 0.0), queue=(3840, 15), freeze=5005, size=4 * 64)
M26 = [(2, 224, (0.14, 1.0)), (6, 96, (0.05, 0.14))]
M24 = [(2, 224, (0.14, 1.0)), (4, 96, (0.05, 0.14))]
TWO = [(2, 224, (0.08, 1.0))]
CIFAR = dict(
    lr=0.6, eta_min=0.0006, warmup=(5, 0.0), queue=(0, 0), freeze=5005, size=128, crops=[(2, 32, (0.14, 1.0))],
    epochs=400, prototypes=100, neck=(2048, 512),
)  # fmt: skip
EPOCHS = (100, 200, 400, 800)
RECIPES = {
    **{f'swav/swav_resnet50_64xb64-mcrop-coslr-{n}e_in1k': BIG | dict(crops=M26, epochs=n) for n in EPOCHS},
    'swav/swav_resnet50_64xb64-coslr-400e_in1k': BIG | dict(crops=TWO, epochs=400),
    **{f'swav/swav_resnet50_4xb64-mcrop-coslr-{n}e_in1k': SMALL | dict(crops=M26, epochs=n) for n in (200, 400)},
    'swav/swav_resnet50w2_128xb32-mcrop-coslr-400e_in1k': BIG | dict(
        crops=M24, epochs=400, size=128 * 32, neck=(4096, 8192)
    ),
    'swav/swav_resnet50w4_64xb40-mcrop-coslr-400e_in1k': BIG | dict(
        crops=[(2, 224, (0.08, 1.0)), (4, 96, (0.08, 0.14))], epochs=400, size=2560, neck=(8192, 8192), queue=(2560, 0)
    ),
    'swav/swav_resnet26_1xb128-coslr-400e_cifar10': CIFAR,
    'swav/swav_resnet26_1xb128-coslr-400e_cifar100': CIFAR,
    'deepclusterv2/deepclusterv2_resnet50_64xb64-mcrop-coslr-800e_in1k': BIG | dict(crops=M26, epochs=800),
    'deepclusterv2/deepclusterv2_resnet50_64xb64-mcrop-coslr-400e_in1k': BIG | dict(
        crops=[(2, 160, (0.08, 1.0)), (4, 96, (0.05, 0.14))], epochs=400
    ),
    'deepclusterv2/deepclusterv2_resnet50_64xb64-coslr-400e_in1k': BIG | dict(crops=TWO, epochs=400),
}  # fmt: skip


def test_all_recipes_are_checked():
    files = {
        f'{p.parent.name}/{p.stem}' for f in ('swav', 'deepclusterv2') for p in (config_root() / f).glob('[!u]*.py')
    }
    assert files == set(RECIPES)


@pytest.mark.parametrize('name', RECIPES)
def test_published_numbers(name):
    recipe, cfg = RECIPES[name], load_config(f'unmix::{name}.py')
    cifar, swav = 'cifar' in name, name.startswith('swav/')
    optimizer = dict(type='LARC', lr=recipe['lr'], momentum=0.9, weight_decay=1e-6)
    wrapper = 'AutocastOptimWrapper' if swav else 'OptimWrapper'
    assert cfg.optim_wrapper.to_dict() == dict(type=wrapper, optimizer=optimizer)
    (schedule,) = cfg.param_scheduler
    assert (schedule.type, schedule.eta_min, schedule.convert_to_iter_based) == (
        'RampCosineLR', recipe['eta_min'], True
    )  # fmt: skip
    assert (schedule.get('warmup', 0), schedule.get('warmup_lr', 0.0)) == recipe['warmup']
    assert cfg.train_cfg.max_epochs == recipe['epochs']
    assert cfg.auto_scale_lr.base_batch_size == recipe['size']
    head, neck = cfg.model.head, cfg.model.neck
    assert (neck.in_dim, neck.hidden_dim) == recipe.get('neck', (2048, 2048))
    assert (neck.out_dim, neck.norm, neck.hidden_bias) == (128, True, True)
    assert (head.dim, head.num_prototypes, head.temperature) == (128, recipe.get('prototypes', 3000), 0.1)
    if swav:
        assert (head.epsilon, head.get('sinkhorn_iterations', 3), head.freeze_steps) == (0.05, 3, recipe['freeze'])
        assert (head.get('queue_size', 0), head.get('queue_start', 0)) == recipe['queue']
    else:
        assert (head.num_heads, head.num_instances) == (3, 1281167)
        assert cfg.default_hooks.cluster.type == 'ClusterHook'
    pipeline = cfg.train_dataloader.dataset.pipeline
    kinds = pipeline.crops if pipeline.type == 'MultiCrop' else [pipeline]
    crops = [(kind.num_views, kind.transforms[0].size, tuple(kind.transforms[0].scale)) for kind in kinds]
    assert crops == recipe['crops']
    for kind in kinds:
        names = [transform.type for transform in kind.transforms]
        blur = [] if cifar else ['RandomApply']
        assert names == ['RandomResizedCrop', 'RandomHorizontalFlip', 'RandomApply', 'RandomGrayscale', *blur]
        strength = 0.4 if cifar else 0.8
        (jitter,) = kind.transforms[2].transforms
        assert (jitter.brightness, jitter.hue, kind.transforms[2].p) == (strength, strength / 4, 0.8)
    std = [0.2023, 0.1994, 0.2010] if cifar else [0.228, 0.224, 0.225]
    assert cfg.model.data_preprocessor.std == pytest.approx([255 * value for value in std])


@pytest.mark.parametrize('name', RECIPES)
def test_twin_differs_in_unmix_only(name):
    folder, stem = name.split('/')
    twin, base = load_config(f'unmix::{folder}/unmix-{stem}.py'), load_config(f'unmix::{name}.py')
    prob = 0.5 if 'cifar' in name else 0.0
    assert twin.model.pop('unmix').to_dict() == dict(type='UnMix', mixing=dict(type='RandomMixing', prob=prob))
    assert twin.model.pop('flip_mode', 'full') == ('code_only' if 'cifar' in name else 'full')
    assert twin.to_dict() == base.to_dict()
