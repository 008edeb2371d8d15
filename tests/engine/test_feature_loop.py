"""FeatureLoop in real Runners."""

import copy
import random

import numpy as np
import pytest
import torch
from feature_toy import ToyImages, feature_runner, loader
from mmengine.hooks import Hook
from mmengine.registry import MODELS

from unmix.apis import load_config
from unmix.evaluation import KNN, Features, LinearProbe
from unmix.evaluation.extraction import raw_pixels
from unmix.testing.ranks import run_ranks
from unmix.utils.rng import seeded


def expected_features(model, size, seed=0):
    """One image at a time, in order."""
    data = ToyImages(size, seed)
    model.eval()
    with torch.no_grad():
        rows = [model.backbone((image[None].float() - 100) / 50)[0] for image in data.images]
    return Features(torch.stack(rows), data.label), data.images


def test_metrics_see_all_features_in_order_and_in_eval_mode(tmp_path):
    runner = feature_runner(tmp_path, test_evaluator=dict(type='Recorder'))
    runner.model.backbone[2].running_mean.fill_(0.3)
    runner.test()
    ((bank, test),) = runner.test_loop.metrics[0].calls
    for got, (wanted, _) in (
        (bank, expected_features(runner.model, 23)),
        (test, expected_features(runner.model, 10, 1)),
    ):
        torch.testing.assert_close(got.features, wanted.features)
        assert torch.equal(got.labels, wanted.labels)


@pytest.mark.slow
def test_controls_are_the_same_protocol_on_other_features(tmp_path):
    runner = feature_runner(tmp_path, dict(controls=True))
    metrics = runner.test()
    with seeded('random_init', runner.seed):
        control = MODELS.build(dict(type='ToyEncoder', _scope_='unmix', data_preprocessor=None))
        control.init_weights()
    (bank, bank_images), (test, test_images) = (expected_features(control, *data) for data in ((23,), (10, 1)))
    for name, metric in (('knn', KNN(k=5)), ('linear', LinearProbe())):
        assert metrics[f'random_init/{name}/top1'] == metric(bank, test)['top1']
        pixels = [raw_pixels(dict(inputs=images)) for images in (bank_images, test_images)]
        assert pixels[0].max() <= 1
        raw = metric(Features(pixels[0], bank.labels), Features(pixels[1], test.labels))
        assert metrics[f'raw_pixels/{name}/top1'] == raw['top1']
    assert len(metrics) == 6


def test_the_random_control_is_without_head_and_momentum_encoder(tmp_path):
    """A head may have a bank of all images."""
    runner = feature_runner(tmp_path, dict(controls=True))
    cfg = load_config('unmix::quickstart/moco_digits.py')
    with seeded('random_init', runner.seed):
        expected = MODELS.build(dict(cfg.model, _scope_='unmix'))
        expected.init_weights()
    runner.cfg.model = cfg.model
    control = runner.test_loop._control_encoders(torch.device('cpu'))['random_init'].args[0]
    assert {name for name, _ in control.named_children()} == {'data_preprocessor', 'backbone', 'neck'}
    state = dict(expected.named_parameters())
    assert all(torch.equal(value, state[name]) for name, value in control.named_parameters())


class Watch(Hook):
    """Notes which hooks of validations and tests are called, and with what metrics."""

    def __init__(self):
        self.calls, self.metrics = [], None


def note(name):
    def method(self, runner, metrics=None, **kwargs):
        self.calls.append(name)
        self.metrics = metrics or self.metrics

    return method


for stage in ('val', 'test', 'val_epoch', 'test_epoch', 'val_iter', 'test_iter'):
    for name in (f'before_{stage}', f'after_{stage}'):
        setattr(Watch, name, note(name))


def state_of(runner):
    return copy.deepcopy(runner.model.state_dict()), random.getstate(), np.random.get_state(), torch.get_rng_state()


@pytest.mark.slow
def test_nothing_of_the_run_changes(tmp_path):
    runner = feature_runner(tmp_path, dict(controls=True))
    runner.model.train()
    runner.model.backbone[2].eval()  # a frozen BatchNorm, say
    modes = [module.training for module in runner.model.modules()]
    before = state_of(runner)
    runner.test()
    runner.val()
    after = state_of(runner)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1] == after[1]
    assert all(np.array_equal(a, b) for a, b in zip(before[2], after[2], strict=True))
    assert torch.equal(before[3], after[3])
    assert modes == [module.training for module in runner.model.modules()]


@pytest.mark.slow
def test_training_is_the_same_with_and_without_validation(tmp_path):
    weights = []
    for name, extra in (('with', {}), ('without', dict(val_dataloader=None, val_cfg=None, val_evaluator=None))):
        runner = feature_runner(tmp_path / name, dict(controls=True), **extra)
        runner.train()
        weights.append(runner.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_validation_and_test_call_their_own_hooks(tmp_path):
    runner = feature_runner(tmp_path)
    watch = Watch()
    runner.register_hook(watch)
    metrics = runner.val()
    wanted = [
        'before_val',
        'before_val_epoch',
        *['before_val_iter', 'after_val_iter'] * 3,
        'after_val_epoch',
        'after_val',
    ]
    assert watch.calls == wanted
    assert watch.metrics == metrics
    assert set(metrics) == {'knn/top1', 'linear/top1'}
    watch.calls.clear()
    runner.test()
    assert watch.calls == [name.replace('val', 'test') for name in wanted]


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_by_its_knn_accuracy(tmp_path):
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, save_best='knn/top1', rule='greater'))
    runner = feature_runner(tmp_path, default_hooks=hooks)
    runner.train()
    assert list(tmp_path.glob('best_knn_top1_epoch_*.pth'))
    assert runner.message_hub.get_scalar('val/knn/top1').current() > 100 / 3


def test_without_labels_training_goes_on_after_one_warning(tmp_path):
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, save_best='knn/top1', rule='greater'))
    bank = loader(23, labelled=False)
    runner = feature_runner(tmp_path, dict(bank_dataloader=bank), default_hooks=hooks)
    runner.train()
    assert runner.epoch == 2
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert log.count('have no labels') == 1
    unlabelled = loader(10, labelled=False)
    assert feature_runner(tmp_path / 'test', test_dataloader=unlabelled).test() == {}


@pytest.mark.slow
def test_bad_evaluators_are_refused(tmp_path):
    with pytest.raises(ValueError, match='ValLoop'):
        feature_runner(tmp_path, test_evaluator=dict(type='Accuracy')).test()
    with pytest.raises(ValueError, match='same name'):
        feature_runner(tmp_path, test_evaluator=[dict(type='KNN', k=5), dict(type='KNN', k=20)]).test()
    twice = [dict(type='KNN', k=5), dict(type='KNN', k=20, name='knn20')]
    assert set(feature_runner(tmp_path, test_evaluator=twice).test()) == {'knn/top1', 'knn20/top1'}


def evaluate(rank, world_size, out):
    """Run the test loop as one of ``world_size`` processes and save what came of it."""
    torch.manual_seed(0)
    runner = feature_runner(
        out / f'{world_size}_{rank}',
        dict(controls=True),
        test_evaluator=[dict(type='KNN', k=5), dict(type='LinearProbe'), dict(type='Recorder')],
    )
    with torch.no_grad():
        for i, parameter in enumerate(runner.model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)))
        runner.model.backbone[2].running_mean.fill_(rank)  # in DDP every rank has its own statistics
    metrics = runner.test()
    assert (runner.model.backbone[2].running_mean == rank).all()
    calls = runner.test_loop.metrics[-1].calls
    torch.save(
        dict(metrics=metrics, calls=[[tuple(x) for x in call] for call in calls]), out / f'{world_size}_{rank}.pt'
    )


@pytest.mark.ranks
def test_two_processes_equal_one(tmp_path):
    evaluate(0, 1, tmp_path)
    run_ranks(evaluate, 2, tmp_path, 2, tmp_path)
    one, first, second = (torch.load(tmp_path / f'{name}.pt') for name in ('1_0', '2_0', '2_1'))
    assert first['metrics'] == second['metrics'] == one['metrics']
    assert second['calls'] == []  # metrics run on rank 0 alone
    for mine, theirs in zip(one['calls'], first['calls'], strict=True):  # 23 and 10 images on 2 ranks: padding vanished
        for (features, labels), (other, other_labels) in zip(mine, theirs, strict=True):
            torch.testing.assert_close(features, other)
            assert torch.equal(labels, other_labels)


@pytest.mark.slow
def test_a_test_in_a_plain_runner_builds_no_training(tmp_path):
    """MMEngine's Runner builds it when its iteration is read."""
    runner = feature_runner(tmp_path, dict(cache=True), default_hooks=dict(progress=dict(type='unmix.ProgressHook')))
    runner.register_custom_hooks([dict(type='unmix.ReportHook')])
    runner.val()
    runner.test()
    assert isinstance(runner._train_loop, dict)
