"""What decides about the next step besides weights and optimiser: gradients, random generators, seeds."""

import os
import warnings
from pathlib import Path

import pytest
import torch
from engine_toy import toy_runner
from test_finite_loss_hook import Spoil, spoilt_runner
from test_train_loop import assert_same, state

from unmix.testing.ranks import run_ranks

EVERY_THREE = dict(default_hooks__checkpoint__by_epoch=False, default_hooks__checkpoint__interval=3)
EVERY_THREE |= dict(default_hooks__checkpoint__max_keep_ckpts=-1)


def resumed(directory, start, **changes):
    runner = toy_runner(directory / f'from_{start.stem}', resume=True, load_from=str(start), **changes)
    runner.train()
    return runner


@pytest.mark.slow
@pytest.mark.parametrize('accumulate', [2, 4])
def test_gradients_wait_in_the_checkpoint_for_their_step(tmp_path, accumulate, capsys):
    """Epochs have 6 batches, so an accumulation of 4 goes on over the end of the first."""
    changes = EVERY_THREE | dict(optim_wrapper__accumulative_counts=accumulate)
    whole = toy_runner(tmp_path, **changes)
    whole.train()
    for done in (3, 6, 9, 12):
        path = tmp_path / f'iter_{done}.pth'
        assert bool(torch.load(path, weights_only=False)['step']['gradients']) == (done % accumulate != 0)
        assert_same(state(resumed(tmp_path, path, **changes)), state(whole))
    assert 'is made without them' not in capsys.readouterr().out


@pytest.mark.slow
def test_lost_gradients_are_warned_about(tmp_path, capsys):
    changes = EVERY_THREE | dict(optim_wrapper__accumulative_counts=2)
    toy_runner(tmp_path, **changes).train()
    checkpoint = torch.load(tmp_path / 'iter_9.pth', weights_only=False)
    del checkpoint['step']
    torch.save(checkpoint, tmp_path / 'old_9.pth')
    resumed(tmp_path, tmp_path / 'old_9.pth', **changes)
    assert 'has the gradients of 0 processes, but there are 1 now' in capsys.readouterr().out


@pytest.mark.slow
def test_weights_alone_bring_no_gradients(tmp_path):
    toy_runner(tmp_path, **EVERY_THREE, optim_wrapper__accumulative_counts=2).train()
    runner = toy_runner(tmp_path / 'fine', load_from=str(tmp_path / 'iter_9.pth'), train_cfg__max_epochs=1)
    gradients = []
    runner.signal_hook.before_train = lambda runner: gradients.append(runner.model.layer.weight.grad)
    runner.train()
    assert gradients == [None]


@pytest.mark.slow
def test_dropout_is_a_function_of_the_iteration(tmp_path):
    changes = EVERY_THREE | dict(model__dropout=0.5)
    whole = toy_runner(tmp_path, **changes)
    whole.train()
    torch.manual_seed(12345)  # what was drawn before does not matter
    assert_same(state(resumed(tmp_path, tmp_path / 'iter_9.pth', **changes)), state(whole))
    other = toy_runner(tmp_path / 'other', **changes, randomness__seed=1)
    other.train()
    assert not torch.equal(other.model.layer.weight, whole.model.layer.weight)


@pytest.mark.slow
@pytest.mark.parametrize('sampler', ['EpochSampler', 'DefaultSampler'])
def test_a_run_without_a_seed_goes_on_with_the_one_it_drew(tmp_path, sampler):
    changes = EVERY_THREE | dict(randomness__seed=None, train_dataloader__sampler__type=sampler)
    whole = toy_runner(tmp_path, **changes)
    whole.train()
    second = resumed(tmp_path, tmp_path / 'iter_9.pth', **changes)
    assert second.seed == whole.seed
    assert_same(state(second), state(whole))
    assert second.model.seen == whole.model.seen[9:]


@pytest.mark.slow
def test_schedulers_do_not_complain_when_resumed(tmp_path):
    """Iteration 6 is the last of an epoch: after it a schedule by epoch steps first of all."""
    toy_runner(tmp_path, **EVERY_THREE).train()
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='Detected call of')
        resumed(tmp_path, tmp_path / 'iter_6.pth', **EVERY_THREE)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['moco-v2', 'byol'])
@pytest.mark.parametrize(('accumulate', 'start'), [(1, 3), (2, 4), (2, 3)])
def test_a_checkpoint_of_the_first_version_goes_on_as_an_uninterrupted_run(tmp_path, name, accumulate, start):
    """Its momentum encoder moves in the iteration after the optimiser step, so at (2, 3) it has moved."""
    each = dict(type='CheckpointHook', by_epoch=False, interval=1, max_keep_ckpts=-1)
    wrapper = dict(type='OptimWrapper', accumulative_counts=accumulate, optimizer=dict(type='SGD', lr=0.5))
    changes = dict(name=name, optim_wrapper=dict(wrapper, _delete_=True), default_hooks__checkpoint=each)
    whole = spoilt_runner(tmp_path, Spoil(at=()), **changes)
    whole.train()
    late, checkpoint = (torch.load(tmp_path / f'iter_{n}.pth', weights_only=False) for n in (start - 1, start))
    parameters = [f'momentum_encoder.{key}' for key, _ in whole.model.momentum_encoder.named_parameters()]
    moved = start % accumulate != 0
    assert moved == all(torch.equal(late['state_dict'][key], checkpoint['state_dict'][key]) for key in parameters)
    checkpoint['state_dict'] |= {key: late['state_dict'][key] for key in parameters}
    checkpoint['step']['momentum_moved'] = moved
    torch.save(checkpoint, tmp_path / 'first_version.pth')
    path = str(tmp_path / 'first_version.pth')
    second = spoilt_runner(tmp_path / 'second', Spoil(at=()), resume=True, load_from=path, **changes)
    second.train()
    assert_same(state(second), state(whole))


def _train_on_rank(rank, directory):
    os.environ['LOCAL_RANK'] = str(rank)  # MMEngine reads it
    changes = EVERY_THREE | dict(
        launcher='pytorch',
        model_wrapper_cfg=dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None),
        optim_wrapper__accumulative_counts=2,
        model__dropout=0.5,
        train_dataloader__batch_size=2,
    )
    whole = toy_runner(directory, **changes)
    whole.train()
    path = directory / 'iter_9.pth'
    mine, other = (
        torch.load(path, weights_only=False)['step']['gradients'][number]['layer.weight'] for number in (rank, 1 - rank)
    )
    assert not torch.equal(mine, other)  # DDP does not reduce them before the optimiser step
    assert_same(state(resumed(directory, path, **changes)), state(whole))


@pytest.mark.ranks
def test_every_rank_gets_its_own_gradients_back(tmp_path: Path) -> None:
    run_ranks(_train_on_rank, 2, tmp_path, tmp_path)
