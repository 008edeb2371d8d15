"""The collapse warning fires for collapsed features, and only for them."""

import logging
import math

import pytest
import torch
from engine_toy import ToyModel, toy_runner
from mmengine.registry import MODELS
from torch.nn import functional as F

from unmix.models import InfoNCEHead


@MODELS.register_module(force=True)
class ToyContrast(ToyModel):
    """InfoNCE on two pairs; ``collapsed`` maps every image to the same feature."""

    pairs = ((0, 1), (1, 0))

    def __init__(self, collapsed: bool, queue_size: int) -> None:
        super().__init__()
        self.head = InfoNCEHead(dim=3, queue_size=queue_size)
        torch.nn.init.orthogonal_(self.layer.weight)
        self.collapsed = collapsed

    def forward(self, inputs, index, mode='loss'):
        features = F.normalize(self.layer(inputs))
        if self.collapsed:
            features = 0 * features + 3**-0.5
        loss = self.head(features, features.detach())
        self.head.update({}, {0: features.detach()})
        return dict(loss_base=2 * loss)


def warnings_of(tmp_path, epochs=4, **model):
    runner = toy_runner(
        tmp_path,
        model=dict(type='mmengine.ToyContrast', _delete_=True, **model),
        custom_hooks=[dict(type='CollapseHook', patience=2)],
        train_cfg__max_epochs=epochs,
    )
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    runner.logger.addHandler(handler)
    runner.train()
    return [message for message in messages if 'queue' in message]


def test_collapsed_model_is_warned_about_once(tmp_path):
    (message,) = warnings_of(tmp_path, collapsed=True, queue_size=6)
    assert f'ln(K + 1): {math.log(7):.3f} of {math.log(7):.3f} for 2 epochs' in message
    assert 'BatchNorm' in message
    assert 'model.head.queue_size' in message


def test_one_epoch_at_chance_is_no_collapse(tmp_path):
    assert warnings_of(tmp_path, epochs=1, collapsed=True, queue_size=6) == []


def test_healthy_model_is_not_warned_about(tmp_path):
    assert warnings_of(tmp_path, collapsed=False, queue_size=6) == []


@pytest.mark.parametrize(('queue_size', 'warned'), [(24, False), (25, True)])
def test_queue_longer_than_the_data(tmp_path, queue_size, warned):
    messages = warnings_of(tmp_path, collapsed=False, queue_size=queue_size)
    assert bool(messages) == warned
    if warned:
        assert 'model.head.queue_size is 25' in messages[0]
        assert 'only 24 images' in messages[0]
        assert 'model.head.queue_size=6' in messages[0]
