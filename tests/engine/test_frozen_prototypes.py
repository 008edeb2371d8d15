"""Prototypes frozen at the start of SwAV, against the published loop, which removes their gradient before the step."""

from pathlib import Path

import pytest
import torch
from algorithms_under_test import ALGORITHMS
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from test_finite_loss_hook import Spoil, spoilt_runner
from test_train_loop import assert_same, state
from torch.nn.utils import clip_grad_norm_

from unmix.engine.step import TrainStep
from unmix.registry import MODELS, OPTIMIZERS
from unmix.testing.ranks import run_ranks

STEPS, FROZEN = 6, 4
PROTOTYPES = 'head.prototypes.weight'
OPTIMIZER = {
    'sgd': dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.1, dampening=0.5),
    'sgd-nesterov': dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    'adam': dict(type='Adam', lr=0.01, weight_decay=0.1),
    'adamw': dict(type='AdamW', lr=0.01, weight_decay=0.1, fused=True),
    'larc': dict(type='LARC', lr=0.3, weight_decay=0.1),
    'lars': dict(type='LARS', lr=0.3, weight_decay=0.1),
}


def build(name, freeze_steps, unmix=True):
    torch.manual_seed(0)
    head = dict(ALGORITHMS['swav']['head'], queue_size=0, freeze_steps=freeze_steps)
    model = MODELS.build(dict(ALGORITHMS['swav'], head=head, unmix=dict(type='UnMix') if unmix else None))
    return model, OPTIMIZERS.build(dict(OPTIMIZER[name], params=model.parameters()))


def batches(rank=0):
    generator = torch.Generator().manual_seed(rank)
    return [[torch.randn(6, 3, 8, 8, generator=generator) for _ in range(2)] for _ in range(STEPS)]


def published(model, optimizer, accumulate=1, max_norm=None, wrapped=None, rank=0):
    """Train as the release does: its gradient is removed, by name, in the first steps."""
    forward = model if wrapped is None else wrapped
    for step, views in enumerate(batches(rank)):
        due = (step + 1) % accumulate == 0
        (sum(forward(views, mode='loss').values()) / accumulate).backward()
        if due:
            if step < FROZEN:
                for name, parameter in model.named_parameters():
                    if 'prototypes' in name:
                        parameter.grad = None
            if max_norm is not None:
                clip_grad_norm_([p for p in model.parameters() if p.grad is not None], max_norm)
            optimizer.step()
            optimizer.zero_grad()
        model.after_step(stepped=due)
    return outcome(model, optimizer)


def ours(model, optimizer, wrapped=None, rank=0, **wrapper):
    """Train by :class:`TrainStep`; frozen prototypes, and the optimiser's state of them, do not change at all."""
    step = TrainStep(model if wrapped is None else wrapped, OptimWrapper(optimizer, **wrapper))
    before = model.head.prototypes.weight.detach().clone()
    for number, views in enumerate(batches(rank)):
        step.run(dict(inputs=views, index=torch.arange(6)))
        if number < FROZEN:
            assert torch.equal(model.head.prototypes.weight, before)
            assert model.head.prototypes.weight not in optimizer.state
    assert not torch.equal(model.head.prototypes.weight, before)
    step.close()
    return outcome(model, optimizer)


def outcome(model, optimizer):
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            values[f'optimizer.{name}.{key}'] = torch.as_tensor(value).clone()
    return values


@pytest.mark.parametrize('unmix', [False, True], ids=['plain', 'unmix'])
@pytest.mark.parametrize('name', OPTIMIZER)
def test_a_training_is_the_published_loop(name, unmix):
    assert_same(ours(*build(name, FROZEN, unmix)), published(*build(name, 0, unmix)))


@pytest.mark.parametrize('accumulate', [2, 1])
def test_accumulated_and_clipped_gradients_are_the_published_loops(accumulate):
    expected = published(*build('adam', 0), accumulate=accumulate, max_norm=0.1)
    got = ours(*build('adam', FROZEN), accumulative_counts=accumulate, clip_grad=dict(max_norm=0.1))
    assert_same(got, expected)


@pytest.mark.parametrize('call', [True, False])
def test_a_loop_of_ones_own_freezes_too(call):
    model, optimizer = build('adamw', FROZEN)
    for step, views in enumerate(batches()):
        before = model.head.prototypes.weight.detach().clone()
        optimizer.zero_grad()
        sum(model.loss(views).values()).backward()
        if call:
            model.before_step()
        optimizer.step()
        model.after_step()
        assert torch.equal(before, model.head.prototypes.weight) == (step < FROZEN)


@pytest.mark.slow
@pytest.mark.parametrize(('loop', 'start', 'name'), [
    ('TrainLoop', 1, 'adamw'), ('TrainLoop', 1, 'sgd'), ('EpochBasedTrainLoop', None, 'adam'),
])  # fmt: skip
def test_a_run_resumed_while_frozen_is_the_uninterrupted_one(tmp_path, loop, start, name):
    """Five steps an epoch, of which the first nine are frozen; optimisers as the Runner builds them."""
    changes = dict(
        name='swav', epochs=3, model__head=dict(ALGORITHMS['swav']['head'], freeze_steps=9), train_cfg__type=loop,
        optim_wrapper__optimizer=dict(OPTIMIZER[name], _delete_=True),
    )  # fmt: skip
    runner = spoilt_runner(tmp_path, Spoil(at=()), **changes)
    runner.train()
    prototypes = [torch.load(tmp_path / f'epoch_{n}.pth', weights_only=False)['state_dict'][PROTOTYPES] for n in (1, 2)]
    assert not torch.equal(*prototypes)
    untrained = spoilt_runner(tmp_path / 'new', Spoil(at=()), **changes).model
    assert torch.equal(prototypes[0], untrained.head.prototypes.weight)
    if start is not None:
        again = dict(changes, load_from=str(tmp_path / f'epoch_{start}.pth'), resume=True)
        second = spoilt_runner(tmp_path / 'resumed', Spoil(at=()), **again)
        second.train()
        assert_same(state(second), state(runner))


def test_a_fused_sgd_that_would_fail_is_refused(tmp_path):
    optimizer = dict(OPTIMIZER['sgd'], fused=True, _delete_=True)
    changes = dict(name='swav', model__head=dict(ALGORITHMS['swav']['head'], freeze_steps=3))
    with pytest.raises(ValueError, match=r'optimizer\.fused is True, .* Leave out fused'):
        spoilt_runner(tmp_path, Spoil(at=()), optim_wrapper__optimizer=optimizer, **changes).train()


def of_a_rank(rank: int, path: Path) -> None:
    for name in OPTIMIZER:
        results = []
        for train, freeze_steps in ((published, 0), (ours, FROZEN)):
            model, optimizer = build(name, freeze_steps)
            results.append(train(model, optimizer, wrapped=MMDistributedDataParallel(model), rank=rank))
        assert_same(*results)
    torch.save(results[1][PROTOTYPES], path / f'{rank}.pth')
    model, optimizer = build('adam', FROZEN)
    sum(MMDistributedDataParallel(model)(batches()[0], mode='loss').values()).backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=r'Call model\.before_step\(\) before optimizer\.step\(\)'):
        model.after_step()


@pytest.mark.ranks
def test_two_ranks_are_the_published_loop(tmp_path):
    run_ranks(of_a_rank, 2, tmp_path, tmp_path)
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    assert torch.equal(first, second)
