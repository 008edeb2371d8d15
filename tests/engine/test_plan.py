"""The plan of a training on a folder: what must hold for any number of images, on any machine, without any data."""

import re
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest
import torch

from unmix.converters.fit import Start
from unmix.datasets.survey import Facts
from unmix.engine.plan import Machine, Plan, Wishes
from unmix.engine.planned_network import backbone_depth
from unmix.engine.planner import (
    LEAST_EPOCHS,
    METHODS,
    MIXTURES,
    default_minutes,
    full_epochs,
    make_plan,
    recipe_name,
)
from unmix.registry import MODELS
from unmix.utils.sizes import LEAST_STEPS, Sizes

IMAGES = (100, 200, 1_000, 50_000, 1_280_000, 10_000_000)
MACHINES = {
    '1 CPU': Machine(1, 0, 2),
    '1 GPU': Machine(1, 1, 16, 80 * 2**30),
    '8 GPUs': Machine(8, 8, 16, 80 * 2**30),
}


def facts(images: int, classes: int = 10, **changes: Any) -> Facts:
    return Facts(**dict(dict(images=images, classes=(images // classes,) * classes if classes else ()), **changes))


def sizes_of(plan: Plan) -> Sizes:
    dim = plan.config().model.neck.get('out_dim')
    return Sizes(plan.images, plan.batch, plan.images // plan.batch * plan.batch, plan.steps, dim)


@pytest.mark.slow
@pytest.mark.parametrize('machine', MACHINES)
def test_any_number_of_images(machine: str) -> None:
    epochs = []
    for images in IMAGES:
        plan = make_plan(facts(images), MACHINES[machine], Wishes('moco'))
        options, total = plan.options, plan.batch
        assert total == options['train_dataloader.batch_size'] * MACHINES[machine].processes
        assert total * 4 <= plan.images <= images - plan.held_out
        queue = options['model.head.queue_size']
        assert queue % total == 0
        assert queue * 4 <= plan.images
        assert plan.steps == plan.epochs * (plan.images // total)
        assert plan.steps >= LEAST_STEPS
        assert plan.left_out == plan.images % total < total
        assert options['optim_wrapper.optimizer.lr'] == pytest.approx(0.06 * total / 128, rel=1e-5)
        assert 0.9 <= options['model.momentum'] < 1
        assert plan.seconds <= 60 * plan.minutes
        assert options['train_dataloader.num_workers'] < MACHINES[machine].cores
        epochs.append(plan.epochs)
        assert all(row.reason and row.key for row in plan.rows)
        assert not [note for note in plan.notes if 'steps' in note]
    assert all(more >= fewer for more, fewer in pairwise(epochs))


@pytest.mark.slow
@pytest.mark.parametrize('minutes', [2, 10, 600])
@pytest.mark.parametrize('images', [200, 50_000, 10_000_000])
def test_the_time_is_kept(images: int, minutes: float) -> None:
    """A part of the images is taken where there is no time to see each of them some times."""
    for speed in (None, 20.0, 3000.0):
        plan = make_plan(facts(images), Machine(1, 0, 2, speed=speed), Wishes(minutes=minutes))
        assert plan.minutes == minutes
        whole = images - plan.held_out
        if plan.images < whole:
            assert plan.epochs <= LEAST_EPOCHS
            assert plan.chosen == plan.images
            assert plan.left_out == 0
        enough = plan.epochs > 1 and plan.images > 256
        assert plan.seconds <= 60 * minutes or not enough
        few = plan.steps < LEAST_STEPS // 2
        assert bool([note for note in plan.notes if '--minutes' in note]) is few


def test_a_measured_speed_changes_the_epochs_only() -> None:
    """The measurement is of the network, the batch and the size of the plan, so it must not change them."""
    slow, fast = (make_plan(facts(1_000), Machine(1, 0, 2, speed=speed), Wishes('moco')) for speed in (50.0, 100.0))
    assert fast.epochs >= 2 * slow.epochs - 2
    dependent = ('train_cfg', 'default_hooks', 'model.momentum')
    for key in slow.options:
        assert slow.options[key] == fast.options[key] or key.startswith(dependent), key


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('images', [200, *(pytest.param(n, marks=pytest.mark.slow) for n in (16, 100, 5_000))])
def test_the_head_of_any_method_fits(method: str, images: int) -> None:
    """The plan and the advice of a training are one mechanism: with the plan the training has nothing to advise."""
    plan = make_plan(facts(images), MACHINES['1 CPU'], Wishes(method))
    cfg = plan.config()
    with torch.device('cpu'):
        head = MODELS.build(cfg.model.head)
    assert head.misfits(sizes_of(plan)) == []
    assert cfg.train_cfg.max_epochs == plan.epochs
    assert (cfg.model.get('unmix') or {}).get('type') == 'UnMix'
    with torch.device('meta'):
        MODELS.build(cfg.model)


@pytest.mark.parametrize('speed', [2.0, 20.0])
def test_the_advice_of_more_time_works(speed: float) -> None:
    """On a machine that is slower than its cores tell, larger views would take the time that was advised."""
    machine = Machine(1, 0, 8, speed=speed)
    (note,) = make_plan(facts(200), machine, Wishes(minutes=1)).notes
    minutes, key, value = re.search(r'--minutes (\d+) --cfg-options (\S+)=(\d+) would', note).groups()
    plan = make_plan(facts(200), machine, Wishes(minutes=float(minutes), given={key: int(value)}))
    assert not plan.notes
    assert LEAST_STEPS <= plan.steps < 2 * LEAST_STEPS
    (note,) = make_plan(facts(200), machine, Wishes(given={'train_cfg.max_epochs': 10})).notes
    assert 'train_cfg.max_epochs=200 would give' in note


@pytest.mark.parametrize(('mixture', 'share'), MIXTURES.items())
def test_mixtures(mixture: str, share: float | None) -> None:
    cfg = make_plan(facts(500), MACHINES['1 CPU'], Wishes(mixture=mixture)).config()
    assert cfg.model.get('unmix') is None if share is None else cfg.model.unmix.mixing.prob == share


def test_what_the_user_gives_stays() -> None:
    given = {
        'train_dataloader.batch_size': 100,
        'train_cfg.max_epochs': 7,
        'optim_wrapper.optimizer.lr': 0.5,
        'model.head.queue_size': 200,
        'train_dataloader.dataset.pipeline.transforms.0.size': 48,
        'train_dataloader.dataset.exif': False,
    }
    plan = make_plan(facts(2_000), MACHINES['1 CPU'], Wishes('moco', backbone='resnet34', given=given))
    cfg = plan.config()
    assert (plan.batch, plan.epochs) == (100, 7)
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    assert cfg.model.head.queue_size == 200
    assert cfg.train_dataloader.dataset.dataset.exif is False
    assert cfg.train_dataloader.dataset.dataset.pipeline.transforms[0].size == 48
    assert cfg.test_dataloader.dataset.dataset.pipeline.transforms[0].size == 48
    assert cfg.model.backbone.depth == 34
    reasons = {key: row.reason for row in plan.rows for key in row.key.split(', ')}
    assert {reasons[key] for key in given if key in reasons} == {'given'}


def test_a_network_of_other_width() -> None:
    cfg = make_plan(facts(500), MACHINES['1 CPU'], Wishes(backbone='resnet50')).config()
    assert cfg.model.neck.in_dim == 2048
    cfg = make_plan(facts(500), MACHINES['1 CPU'], Wishes('cmc', backbone='resnet50')).config()
    assert cfg.model.neck.neck.in_dim == 1024


@pytest.mark.slow
def test_the_views_follow_images_and_machine() -> None:
    def size(side: int, machine: str, **wishes: Any) -> int:
        plan = make_plan(facts(300, side=side), MACHINES[machine], Wishes(**wishes))
        return int(plan.options['train_dataloader.dataset.pipeline.transforms.0.size'])

    assert [size(side, '1 GPU') for side in (8, 28, 33, 96, 170, 4000)] == [32, 32, 64, 96, 224, 224]
    assert [size(side, '1 CPU', minutes=60) for side in (8, 33, 4000)] == [32, 64, 64]
    assert size(4000, '1 CPU', minutes=3) == 32


def test_views_of_tiny_images_show_most_of_them() -> None:
    key = 'train_dataloader.dataset.pipeline.transforms.0.scale'
    found = [make_plan(facts(300, side=side), MACHINES['1 GPU'], Wishes()).options[key] for side in (8, 20, 28, 300)]
    assert found == [(0.6, 1.0), (0.36, 1.0), (0.2, 1.0), (0.2, 1.0)]


@pytest.mark.parametrize('method', ['simclr', pytest.param('cmc', marks=pytest.mark.slow)])
def test_a_change_that_makes_images_strange_is_none_of_a_view(method: str) -> None:
    """Flips and small crops; each has a row with its reason and key, and what the user gives stays."""

    def values(**changes: Any) -> tuple[Any, Any]:
        given = changes.pop('given', {})
        plan = make_plan(facts(500, side=64, **changes), MACHINES['1 CPU'], Wishes(method, given=given))
        transforms = plan.config().train_dataloader.dataset.dataset.pipeline.transforms
        (flip,) = (each for each in transforms if each.type == 'RandomHorizontalFlip')
        rows = {row.key: row.reason for row in plan.rows}
        key = f'train_dataloader.dataset.pipeline.transforms.{transforms.index(flip)}.p'
        assert ('when mirrored' in rows[key]) == (flip.p == 0)
        return transforms[0].scale, flip.p

    assert values(mirrored=0.55, cropped=0.45) == ((0.2, 1.0), 0.5)
    assert values(mirrored=0.95, cropped=0.95) == ((0.6, 1.0), 0.0)
    scale = {'train_dataloader.dataset.pipeline.transforms.0.scale': (0.3, 1.0)}
    assert values(cropped=0.95, given=scale) == ((0.3, 1.0), 0.5)


def test_labels_are_for_the_evaluation_only() -> None:
    labelled = make_plan(facts(1_000), MACHINES['1 CPU'], Wishes())
    assert labelled.held_out == 200
    assert labelled.config().test_dataloader is not None
    for other in (facts(1_000, classes=0), facts(1_000, classes=500)):
        plan = make_plan(other, MACHINES['1 CPU'], Wishes())
        assert (plan.held_out, plan.images) == (0, 1_000)
        assert plan.config().get('test_dataloader') is None
        assert plan.config().train_dataloader.dataset.labelled is False
    divided = make_plan(facts(1_000, root='d/train', tested='d/val'), MACHINES['1 CPU'], Wishes())
    assert divided.images == 1_000
    tested = divided.config().test_dataloader.dataset
    assert (tested.data_root, tested.class_list) == ('d/val', 'd/train')


@pytest.mark.parametrize(('images', 'wishes', 'message'), [
    (facts(500), Wishes('mocco'), "--method is 'mocco'. Did you mean moco or moco-v3 or cmc?"),
    (facts(500), Wishes(mixture='both sides'), '--mixture is'),
    (facts(500), Wishes(backbone='vit'), "--backbone is 'vit'; expected one of resnet8, resnet18"),
    (facts(500, modes=(('L', 5),)), Wishes('cmc'), 'the images are grey'),
    (facts(7, classes=0), Wishes(), 'too few for a batch'),
])  # fmt: skip
def test_errors(images: Facts, wishes: Wishes, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make_plan(images, MACHINES['1 CPU'], wishes)


def test_broken_images_are_skipped_and_named() -> None:
    plan = make_plan(facts(500, broken=('a/cut.jpg',)), MACHINES['1 CPU'], Wishes())
    assert plan.options['train_dataloader.dataset.broken'] == 'skip'
    (note,) = plan.notes
    assert '1 of the images looked at cannot be read: a/cut.jpg. unmix doctor data/images' in note


def test_accelerators_that_are_not_used_are_named() -> None:
    (note,) = make_plan(facts(50_000), Machine(1, 8, 16), Wishes()).notes
    assert 'torchrun --nproc_per_node=8' in note


def test_an_accelerator_with_little_memory() -> None:
    plans = [make_plan(facts(50_000), Machine(1, 1, 8, gib * 2**30), Wishes(backbone='resnet50')) for gib in (8, 80)]
    assert [plan.batch for plan in plans] == [16, 128]


def start(**backbone: Any) -> Start:
    return Start('weights.pth', dict(backbone), {}, dict(mean=[127.5] * 3, std=[127.5] * 3), ())


def test_a_training_that_starts_from_weights_is_slower() -> None:
    """A tenth of the learning rate, the network and the mean and std of the weights, with reasons."""
    plain = make_plan(facts(500), MACHINES['1 CPU'], Wishes('moco'))
    plan = make_plan(facts(500), MACHINES['1 CPU'], Wishes('moco', start=start(type='ResNet', depth=34)))
    lr = 'optim_wrapper.optimizer.lr'
    assert plan.options[lr] == pytest.approx(plain.options[lr] / 10)
    model = plan.config().model
    assert (model.backbone.depth, model.backbone.num_splits, model.neck.in_dim) == (34, 4, 512)
    assert model.data_preprocessor.mean == [127.5] * 3
    reasons = {row.name: row.reason for row in plan.rows}
    assert 'so that the weights it starts from are kept' in reasons['learning rate']
    assert 'as many as from random weights' in reasons['epochs']
    wishes = Wishes(backbone='resnet18', start=start(type='ResNet', depth=34))
    with pytest.raises(ValueError, match='its depth is 34, and that of --backbone resnet18 is 18'):
        make_plan(facts(500), MACHINES['1 CPU'], wishes)
    with pytest.raises(ValueError, match=r'--method cmc has two networks, .* and --from weights\.pth is one'):
        make_plan(facts(500), MACHINES['1 CPU'], Wishes('cmc', start=start(type='ResNet', depth=18)))


def test_weights_that_do_not_say_their_mean_and_std() -> None:
    """A note names the values that are used, and their keys; it is gone if the file or the user says them."""
    unsaid = start(type='ResNet', depth=18)._replace(statistics={})
    key = 'model.data_preprocessor.mean'
    for each, given, noted in (
        (unsaid, {}, True),
        (unsaid, {key: [127.5] * 3, 'model.data_preprocessor.std': [127.5] * 3}, False),
        (start(type='ResNet', depth=18), {}, False),
        (None, {}, False),
    ):
        plan = make_plan(facts(500), MACHINES['1 CPU'], Wishes('moco', start=each, given=given))
        assert any('mean [123.675, 116.28, 103.53]' in x and f'{key}=...' in x for x in plan.notes) == noted


def test_weights_of_images_with_other_channels() -> None:
    grey = Wishes('moco', start=start(type='ResNet', depth=18, in_channels=1))
    message = 'takes images with 1 channel, and this training has images with 3.* unmix train CONFIG --from'
    with pytest.raises(ValueError, match=rf'--from weights\.pth {message}'):
        make_plan(facts(500), MACHINES['1 CPU'], grey)
    args = dict(patch_size=16, num_layers=1, num_heads=2, hidden_dim=32, mlp_dim=32)
    vit = dict(type='TorchVisionBackbone', model_name='VisionTransformer', model_args=args, in_channels=1)
    with pytest.raises(ValueError, match=rf'--from weights\.pth {message}'):
        make_plan(facts(500), MACHINES['1 CPU'], Wishes('moco', start=start(**vit)))
    two = start(type='TwoBranch', branch=dict(type='ResNet', depth=18), channels=(1, 1))
    with pytest.raises(ValueError, match='takes images with 2 channels, and this training has images with 3'):
        make_plan(facts(500), MACHINES['1 CPU'], Wishes('cmc', start=two))


def test_a_network_of_a_library() -> None:
    """Views in whole patches, AdamW, no groups of BatchNorm; what the user gives stays."""
    args = dict(patch_size=16, num_layers=1, num_heads=2, hidden_dim=32, mlp_dim=32)
    config = dict(type='TorchVisionBackbone', model_name='VisionTransformer', model_args=args)
    wishes = Wishes('moco', start=start(**config))
    plan = make_plan(facts(500, side=40), MACHINES['1 CPU'], wishes)
    cfg = plan.config()
    assert cfg.model.backbone.to_dict() == dict(config, img_size=64)
    assert cfg.model.neck.in_dim == 32
    assert cfg.optim_wrapper.optimizer.type == 'AdamW'
    assert 'momentum' not in cfg.optim_wrapper.optimizer
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(0.1 * 5e-4 * plan.batch / 256)
    given = {'optim_wrapper.optimizer.lr': 0.5, 'train_dataloader.dataset.pipeline.transforms.0.size': 96}
    cfg = make_plan(facts(500), MACHINES['1 CPU'], replace(wishes, given=given)).config()
    assert (cfg.optim_wrapper.optimizer.lr, cfg.model.backbone.img_size) == (0.5, 96)
    cfg = make_plan(facts(500), MACHINES['1 CPU'], Wishes('byol', backbone='torchvision:shufflenet_v2_x0_5')).config()
    assert cfg.model.backbone.to_dict() == dict(type='TorchVisionBackbone', model_name='shufflenet_v2_x0_5')
    assert (cfg.model.neck.in_dim, cfg.optim_wrapper.optimizer.type) == (1024, 'SGD')


def test_the_method_follows_the_machine() -> None:
    for machine, method in (('1 CPU', 'simclr'), ('1 GPU', 'moco')):
        assert make_plan(facts(500), MACHINES[machine], Wishes()).recipe == recipe_name(method, 'both')


def test_names_and_lengths() -> None:
    assert [full_epochs(images) for images in (50_000, 1_280_000)] == [450, 200]
    assert [default_minutes(*each) for each in product((100, 5_000, 10**7), (0, 1))] == [5, 1440, 50, 1440, 1440, 1440]
    assert recipe_name('byol', 'none') == 'unmix::quickstart/byol_folder.py'
    assert backbone_depth('resnet50') == 50
