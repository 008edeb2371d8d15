"""Clusters between epochs in the real Runner: interrupted equals uninterrupted, also inside an epoch."""

import os
import signal

import pytest
import torch
from mmengine.hooks import Hook

from unmix.apis import build_runner, load_config
from unmix.registry import HOOKS


@HOOKS.register_module(force=True)
class SignalAt(Hook):
    """Sends SIGTERM to its own process in an iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


def config(directory, hooks=(), resume=False, **options):
    small = {'train_cfg.max_epochs': 2, 'train_dataloader.batch_size': 400, **options}
    cfg = load_config('unmix::quickstart/unmix-deepclusterv2_digits.py', small)
    cfg.custom_hooks = [*cfg.custom_hooks, *hooks]
    cfg.train_cfg.val_begin = 9
    cfg.work_dir, cfg.launcher, cfg.resume = str(directory), 'none', resume
    return cfg


def final(directory):
    return torch.load(directory / 'epoch_2.pth', weights_only=False)['state_dict']


@pytest.mark.slow
def test_interrupted_in_an_epoch_equals_uninterrupted(tmp_path):
    runner = build_runner(config(tmp_path / 'whole'))
    runner.train()
    assert runner.model.head.clustered_epoch == 1
    with pytest.raises(SystemExit):
        build_runner(config(tmp_path / 'parts', [dict(type='SignalAt', iteration=4)])).train()
    build_runner(config(tmp_path / 'parts', resume=True)).train()
    whole, parts = final(tmp_path / 'whole'), final(tmp_path / 'parts')
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())


@pytest.mark.slow
def test_bank_must_hold_the_data_set(tmp_path):
    with pytest.raises(ValueError, match=r'num_instances is 1000, .* 1257 images'):
        build_runner(config(tmp_path, **{'model.head.num_instances': 1000})).train()
