"""The head's number of instances against the data set; the optimiser that the head follows."""

import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper

from unmix.engine.hooks import InstanceHook
from unmix.engine.optimizers import StreamedSGD
from unmix.models import PICHead
from unmix.models.functional.skipped_steps import Step


def runner(head, num_images=20):
    parameters = list(head.parameters()) or [torch.zeros(1, requires_grad=True)]
    return SimpleNamespace(
        model=SimpleNamespace(head=head),
        train_dataloader=SimpleNamespace(dataset=range(num_images)),
        optim_wrapper=SimpleNamespace(optimizer=torch.optim.SGD(parameters, lr=0.25, momentum=0.5)),
        logger=logging.getLogger('test'),
    )


def test_head_follows_the_optimiser():
    head = PICHead(20, 4, num_recent=8)
    run = runner(head)
    InstanceHook().before_train(run)
    head.weight.grad = torch.zeros_like(head.weight)
    run.optim_wrapper.optimizer.step()
    assert head.recent.history.steps == 1
    assert head.recent.history._last == Step(0.25, 0.0, 0.5)


def test_data_set_larger_than_the_head():
    with pytest.raises(ValueError, match=r'num_instances is 20, but the training data set has 21.*num_instances=21'):
        InstanceHook().before_train(runner(PICHead(20, 4), 21))


def test_data_set_smaller_than_the_head(caplog):
    InstanceHook().before_train(runner(PICHead(20, 4), 19))
    assert 'has only 19 images' in caplog.text


def test_other_heads_are_left_alone(caplog):
    InstanceHook().before_train(runner(torch.nn.Identity()))
    assert not caplog.text


def test_streamed_gradients_are_neither_scaled_nor_clipped_nor_saved():
    head = PICHead(20, 4)
    optimizer, run = StreamedSGD(head.parameters(), lr=0.1), runner(head)
    scaled = AmpOptimWrapper.__new__(AmpOptimWrapper)  # its __init__ wants a device that computes in half precision
    scaled.__dict__.update(optimizer=optimizer, clip_grad_kwargs={}, _accumulative_counts=1)
    clipped, accumulated = dict(clip_grad=dict(max_norm=1.0)), dict(accumulative_counts=2)
    for wrapper in (scaled, OptimWrapper(optimizer, **clipped), OptimWrapper(optimizer, **accumulated)):
        run.optim_wrapper = wrapper
        with pytest.raises(ValueError, match='StreamedSGD knows neither scaled losses nor clipping'):
            InstanceHook().before_train(run)
    run.optim_wrapper = OptimWrapper(optimizer)
    InstanceHook().before_train(run)
    assert head.gradient is not None
