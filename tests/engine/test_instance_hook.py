"""The head's number of instances against the data set; the optimiser that the head follows."""

import logging
from types import SimpleNamespace

import pytest
import torch

from unmix.engine.hooks import InstanceHook
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
