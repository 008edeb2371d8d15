"""The head's number of instances against the data set; the optimiser that the head follows."""

import logging
from types import SimpleNamespace

import pytest
import torch
from algorithms_under_test import ALGORITHMS

from unmix.engine.hooks import InstanceHook
from unmix.models.functional.skipped_steps import Step
from unmix.registry import MODELS


def runner(model, num_images=20):
    return SimpleNamespace(
        model=model,
        train_dataloader=SimpleNamespace(dataset=range(num_images)),
        optim_wrapper=SimpleNamespace(optimizer=torch.optim.SGD(model.parameters(), lr=0.25, momentum=0.5)),
        logger=logging.getLogger('test'),
    )


def build(name):
    config = ALGORITHMS[name]
    return MODELS.build(dict(config, head=dict(config['head'], num_instances=20)) if 'pic' in name else config)


def test_head_follows_the_optimiser():
    model = build('pic-recent')
    run, head = runner(model), model.head
    InstanceHook().before_train(run)
    head.after_step()
    assert head.recent.history.steps == 1
    assert head.recent.history._last == Step(0.25, 0.0, 0.5)


def test_data_set_larger_than_the_head():
    with pytest.raises(ValueError, match=r'num_instances is 20, but the training data set has 21.*num_instances=21'):
        InstanceHook().before_train(runner(build('pic'), 21))


@pytest.mark.parametrize('model', [build('moco-v2'), torch.nn.Linear(2, 2)])
def test_other_heads_and_models_are_left_alone(model, caplog):
    InstanceHook().before_train(runner(model))
    InstanceHook().before_save_checkpoint(runner(model), {})
    assert not caplog.text
