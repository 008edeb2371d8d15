"""Sizes that do not fit the data: they are named at the start, and the advice works when it is followed."""

import re
from pathlib import Path
from typing import Any

import pytest
from engine_toy import toy_runner
from mmengine.config import Config, DictAction

from unmix.apis import build_runner, load_config
from unmix.config import config_files
from unmix.engine.sizes import check_schedules

QUICKSTARTS = {
    'moco': 'queue_size is 512',
    'moco-align-uniform': 'queue_size',
    'swav': 'num_prototypes is 60',
    'pic': 'sampler.window is 640',
    'instdisc': 'num_negatives is 512',
    'deepclusterv2': 'num_prototypes is 200',
    'wmse': 'sub_batch is 64',
    'cmc': 'num_instances is 1257',
    'simclr': 'batch_size is 128',
    'byol': 'batch_size is 128',
}
ADVICE = re.compile(r'--cfg-options (\S+=\S+(?: \S+=\S+)*)')


def train(work_dir: Path, name: str, options: dict[str, Any]) -> list[str]:
    """Train one epoch; return the messages about sizes: of the error, or the warnings."""
    off = {f'{stage}_{part}': None for stage in ('val', 'test') for part in ('cfg', 'dataloader', 'evaluator')}
    own = {'param_scheduler.0.warmup': 0, 'model.head.freeze_steps': 0} if name == 'swav_digits' else {}
    cfg = load_config(f'unmix::quickstart/{name}', off | own | {'train_cfg.max_epochs': 1} | options)
    cfg.work_dir, cfg.experiment_name = str(work_dir), str(work_dir)
    try:
        build_runner(cfg).train()
    except ValueError as error:
        return [str(error)]
    assert (work_dir / 'epoch_1.pth').is_file()
    lines = ''.join(path.read_text() for path in work_dir.glob('*/*.log')).splitlines()
    return [line for line in lines if 'WARNING' in line and 'These sizes fit' in line]


def few(name: str, images: int) -> dict[str, Any]:
    """Options for a training with the first images of each class."""
    pipeline = load_config(f'unmix::quickstart/{name}').train_dataloader.dataset.pipeline
    digits = dict(type='Digits', pipeline=pipeline)
    return {'train_dataloader.dataset': dict(type='Subset', dataset=digits, per_class=images // 10, _delete_=True)}


def followed(message: str) -> dict[str, Any]:
    match = ADVICE.search(message)
    assert match is not None, message
    words = (word.partition('=') for word in match[1].split())
    return {key: DictAction._parse_iterable(value) for key, _, value in words}


@pytest.mark.slow
@pytest.mark.parametrize('method', QUICKSTARTS)
@pytest.mark.parametrize('images', [200, 10])
def test_the_advice_works_when_it_is_followed(tmp_path: Path, method: str, images: int) -> None:
    """With the options of one message there is neither an error nor another warning."""
    name = f'{method}_digits'
    options = few(name, images)
    if method == 'wmse' and images == 200:
        options['train_dataloader.batch_size'] = 100
    messages = train(tmp_path / 'before', name, options)
    if method in ('simclr', 'byol') and images == 200:
        assert not messages
        return
    assert len(messages) == 1
    assert (QUICKSTARTS[method] if images == 200 else 'batch_size is 128') in messages[0]
    assert train(tmp_path / 'after', name, options | followed(messages[0])) == []


@pytest.mark.slow
def test_two_hundred_images_and_a_queue_of_1024(tmp_path: Path) -> None:
    """A queue of 50 alone would be refused for the batch of 128, and is no number of whole batches."""
    (message,) = train(tmp_path, 'moco_digits', few('moco_digits', 200) | {'model.head.queue_size': 1024})
    assert message.endswith('--cfg-options train_dataloader.batch_size=32 model.head.queue_size=32')


def said_of_length(work_dir: Path, name: str, images: int, options: dict[str, Any]) -> list[str]:
    """Build the training loop; return the messages about sizes."""
    cfg = load_config(f'unmix::quickstart/{name}', few(name, images) | options)
    cfg.work_dir, cfg.experiment_name = str(work_dir), str(work_dir)
    runner = build_runner(cfg)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    try:
        runner._train_loop = runner.build_train_loop(runner._train_loop)
    except ValueError as error:
        return [str(error)]
    lines = ''.join(path.read_text() for path in work_dir.glob('*/*.log')).splitlines()
    return [line for line in lines if 'WARNING' in line and 'These sizes fit' in line]


@pytest.mark.slow
@pytest.mark.parametrize(('method', 'options', 'reason', 'advice'), [
    # One step an epoch on 128 of 200 images: more steps of smaller batches, and more epochs.
    ('simclr', {}, 'only 60 steps, train_cfg.max_epochs=60 epochs of 1',
     {'train_dataloader.batch_size': 32, 'train_cfg.max_epochs': 167}),
    ('moco', {}, 'queue_size is 512',
     {'train_dataloader.batch_size': 32, 'model.head.queue_size': 32, 'train_cfg.max_epochs': 167}),
    ('byol', {'train_dataloader.batch_size': 32}, 'only 360 steps', {'train_cfg.max_epochs': 167}),
    # An error of the batch has the epochs too.
    ('simclr', {'train_dataloader.batch_size': 256}, 'not one whole batch',
     {'train_dataloader.batch_size': 32, 'train_cfg.max_epochs': 167}),
])  # fmt: skip
def test_few_steps_are_said(
    tmp_path: Path, method: str, options: dict[str, Any], reason: str, advice: dict[str, Any]
) -> None:
    """With the advice the training has 1,000 steps, and nothing more is said."""
    options = {'train_cfg.max_epochs': 60} | options
    (message,) = said_of_length(tmp_path / 'before', f'{method}_digits', 200, options)
    assert reason in message
    assert followed(message) == advice
    assert said_of_length(tmp_path / 'after', f'{method}_digits', 200, options | followed(message)) == []


@pytest.mark.slow
@pytest.mark.parametrize('epochs', [9, 84])
def test_a_trial_and_a_long_training_are_not_advised(tmp_path: Path, epochs: int) -> None:
    options = {'train_cfg.max_epochs': epochs, 'train_dataloader.batch_size': 32}
    assert said_of_length(tmp_path, 'simclr_digits', 200, options) == []


@pytest.mark.slow
@pytest.mark.parametrize(('options', 'message'), [
    ({'model.head.num_prototypes': 400}, r'num_prototypes is 400, but .* has only 1257 images.*num_prototypes=125$'),
    ({'model.head.num_prototypes': 130}, r'130, but codes are balanced over 128 images .* 0 of .*num_prototypes=125$'),
    ({'model.head.freeze_steps': 9}, r'freeze_steps is 9, but the training has only 9 iterations.*freeze_steps=0$'),
    ({'model.head.queue_size': 100}, r'queue_size is 100, which is not a multiple of .* 128.*queue_size=0'),
])  # fmt: skip
def test_swav(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    (found,) = train(tmp_path / 'before', 'swav_digits', options)
    assert re.search(message, found)
    assert train(tmp_path / 'after', 'swav_digits', options | followed(found)) == []


@pytest.mark.slow
@pytest.mark.parametrize('name', [f'{method}_digits' for method in QUICKSTARTS])
def test_the_quickstart_has_no_misfit(tmp_path: Path, name: str) -> None:
    assert train(tmp_path, name, {}) == []


@pytest.mark.slow
def test_a_shortened_schedule_works_or_says_how(tmp_path: Path) -> None:
    """Of every recipe, with 2 epochs of 6 iterations: if it is refused, following the message mends it at once."""
    runner = toy_runner(tmp_path, train_cfg__max_epochs=2)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    refused = 0
    for path in config_files():
        runner.cfg.param_scheduler = load_config(str(path)).get('param_scheduler')
        try:
            check_schedules(runner, 2, 12)
        except ValueError as error:
            refused += 1
            runner.cfg.merge_from_dict(followed(str(error)))
            check_schedules(runner, 2, 12)
        if runner.cfg.param_scheduler:
            runner.build_param_scheduler(runner.cfg.param_scheduler)
    assert refused > 20  # those of SwAV, DeepCluster-v2, PIC, W-MSE and BYOL warm up


@pytest.mark.slow
@pytest.mark.parametrize(('schedule', 'message'), [
    ([dict(type='RampCosineLR', warmup=5, convert_to_iter_based=True)], r'param_scheduler\.0\.warmup is 5 epochs, .*2'),
    ([dict(type='RampCosineLR', warmup=40, by_epoch=False)], r'scheduler\.0\.warmup is 40 iterations, .* only 12'),
    ([dict(type='WarmupStepLR', warmup=500, milestones=[1], convert_to_iter_based=True)], r'\.0\.warmup is 500 iterat'),
    ([dict(type='LinearLR', end=10), dict(type='CosineLR', begin=10)], r'param_scheduler\.1\.begin is 10 epochs'),
])  # fmt: skip
def test_schedules_that_do_not_fit(tmp_path: Path, schedule: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        toy_runner(tmp_path, param_scheduler=schedule, train_cfg__max_epochs=2).train()
    cfg = Config(dict(param_scheduler=schedule))
    cfg.merge_from_dict(followed(str(error.value)))
    toy_runner(tmp_path, param_scheduler=cfg.param_scheduler, train_cfg__max_epochs=2).train()
