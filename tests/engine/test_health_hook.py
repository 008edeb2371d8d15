"""The health monitor: what it logs, for every method; which faults it names, and when; nothing of a healthy run."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_toy import toy_runner
from mmengine.registry import MODELS
from torch.nn import functional as F

from unmix.checkpoint.hook import CheckpointHook
from unmix.engine.hooks import FiniteLossHook
from unmix.engine.hooks.health_hook import feature_statistics
from unmix.models import BaseAlgorithm, InfoNCEHead
from unmix.testing.ranks import run_ranks

FEATURES = {'spread', 'effective_rank', 'uniformity', 'alignment', 'positive_similarity', 'negative_similarity'}


@MODELS.register_module(force=True)
class ToyContrast(BaseAlgorithm):
    """InfoNCE on two pairs of one encoder's features, which ``fault`` spoils from iteration ``since`` on."""

    pairs = ((0, 1), (1, 0))

    def __init__(self, fault: str = '', queue_size: int = 8, since: int = 0) -> None:
        layer = dict(type='LinearNeck', in_dim=6, out_dim=3)
        super().__init__(layer, dict(type='InfoNCEHead', dim=3, queue_size=queue_size))
        torch.nn.init.orthogonal_(self.backbone.fc.weight)
        torch.nn.init.zeros_(self.backbone.fc.bias)
        self.fault, self.since, self.steps, self.observed = fault, since, 0, 0

    def views(self, inputs):
        return [inputs[0], inputs[0]]

    def start_step(self):
        self.faulty = self.steps >= self.since
        self.steps += 1

    def encode(self, view):
        features = F.normalize(self.backbone(view))
        return spoil(features, self.fault) if self.faulty else features

    def encode_target(self, view, query, index):
        return query.detach()

    def after_step(self, stepped=True):
        self.observed += self.observer is not None
        super().after_step(stepped)


def spoil(features, fault):
    """Features as a faulty encoder gives them; the gradient stays."""
    direction = features.new_tensor([1.0, -1.0, 1.0]) / 3**0.5
    if fault == 'constant':
        return 0 * features + direction
    if fault == 'rank 1':
        return 0 * features + direction * features[:, :1].sign()
    return features * math.nan if fault == 'nan' else features


def train(tmp_path, epochs=1, interval=3, patience=5, changes=None, without=(), **model):
    """Train for ``6 * epochs`` iterations, without some hooks; return the runner and its warnings."""
    runner = toy_runner(
        tmp_path,
        model=dict(type='mmengine.ToyContrast', _delete_=True, **model),
        train_cfg__max_epochs=epochs,
        default_hooks__health=dict(type='HealthHook', interval=interval, patience=patience),
        **(changes or {}),
    )
    runner._hooks = [hook for hook in runner.hooks if not isinstance(hook, without)]
    messages = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    runner.logger.addHandler(handler)
    runner.train()
    return runner, [message for message in messages if 'Health' in message or 'queue' in message]


@pytest.mark.slow
@pytest.mark.parametrize(('fault', 'words', 'advice'), [
    ('nan', 'a batch hold NaN or infinity', 'optim_wrapper.clip_grad'),
    ('constant', 'the same feature', 'model.neck.norm=True'),
    ('rank 1', r'effective rank 1.00, of at most 3', 'model.neck.hidden_dim'),
])  # fmt: skip
def test_fault_is_named_within_one_interval(tmp_path, fault, words, advice):
    _, (message,) = train(tmp_path, without=(FiniteLossHook, CheckpointHook), fault=fault, since=2)  # they refuse NaN
    assert message.startswith('Health, iteration 3: ')
    assert words in message
    assert advice in message


def test_healthy_model_is_not_warned_about(tmp_path):
    runner, messages = train(tmp_path, epochs=3)
    assert messages == []
    logged = {key.removeprefix('train/health/') for key in runner.message_hub.log_scalars if '/health/' in key}
    assert logged == FEATURES | {'queue_norm', 'queue_similarity'}
    assert len(runner.message_hub.get_scalar('train/health/spread').data[0]) == 6
    assert (runner.model.observed, runner.model.observer) == (6, None)  # the rest of the 18 steps are left alone


def test_no_interval_no_statistics(tmp_path):
    runner, _ = train(tmp_path, interval=0, fault='constant')
    assert runner.model.observed == 0


def test_model_without_an_observer_is_left_alone(tmp_path):
    runner = toy_runner(tmp_path, train_cfg__max_epochs=1, default_hooks__health__interval=1)
    runner.train()
    assert not [key for key in runner.message_hub.log_scalars if 'health' in key]


def test_loss_at_chance_is_named_once(tmp_path):
    _, messages = train(tmp_path, epochs=4, interval=0, patience=2, fault='constant')
    (message,) = messages
    assert message.startswith('Health, iteration 18: ')
    assert f'{math.log(9):.3f} of {math.log(9):.3f} for 2 epochs' in message
    assert 'model.head.queue_size' in message


@pytest.mark.slow
def test_a_resumed_run_warns_as_if_uninterrupted(tmp_path):
    """Not again of what it has said; and it knows of the epoch at chance before the one that it resumes in."""
    options = dict(epochs=3, patience=2, fault='constant')
    each = dict(default_hooks__checkpoint=dict(by_epoch=False, interval=3, max_keep_ckpts=-1))
    whole, said = train(tmp_path / 'whole', changes=each, **options)
    assert ['the same feature' in said[0], 'for 2 epochs' in said[1], len(said)] == [True, True, 2]
    start = dict(resume=True, load_from=str(tmp_path / 'whole' / 'iter_15.pth'))
    parts, said_again = train(tmp_path / 'parts', changes=each | start, **options)
    assert said_again == said[1:]
    infos = [runner.message_hub.get_info('health') for runner in (whole, parts)]
    assert infos == 2 * [dict(ill=['chance', 'constant'], epochs_at_chance=2)]


@pytest.mark.slow
def test_one_epoch_at_chance_is_no_collapse(tmp_path):
    assert train(tmp_path, interval=0, patience=2, fault='constant')[1] == []


@pytest.mark.parametrize(('queue_size', 'warned'), [(24, False), (25, True)])
def test_queue_longer_than_the_data(tmp_path, queue_size, warned):
    _, messages = train(tmp_path, queue_size=queue_size)
    assert bool(messages) == warned
    if warned:
        assert 'model.head.queue_size is 25' in messages[0]
        assert 'only 24 images' in messages[0]
        assert 'model.head.queue_size=4' in messages[0]  # whole batches, at most a quarter of the images


def test_statistics_of_features_of_any_length_equal_numpy():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(12, 5, dtype=torch.float64, generator=generator) * 3 for _ in range(2))
    head = InfoNCEHead(dim=5, queue_size=7)
    values = feature_statistics(x, y, head)
    a, b = (z.numpy() / np.linalg.norm(z.numpy(), axis=1, keepdims=True) for z in (x, y))
    i, j = np.triu_indices(12, 1)
    exact = dict(rel=1e-9, abs=1e-9)
    assert values['alignment'] == pytest.approx((np.linalg.norm(a - b, axis=1) ** 2).mean(), **exact)
    uniformity = np.log(np.exp(-2 * np.linalg.norm(a[i] - a[j], axis=1) ** 2).mean())
    assert values['uniformity'] == pytest.approx(uniformity, **exact)
    assert values['spread'] == pytest.approx(np.sqrt(5) * a.std(0).mean(), **exact)
    x[3, 2] = math.inf
    assert feature_statistics(x, y, head) == {}


def gathered(rank, directory):
    """Two ranks with different data have the same statistics, those of the whole batch."""
    runner = toy_runner(
        Path(directory, f'rank{rank}'),
        model=dict(type='mmengine.ToyContrast', _delete_=True),
        default_hooks__health__interval=3,
        train_cfg__max_epochs=1,
    )
    runner.train()
    values = {key: runner.message_hub.get_scalar(key).current() for key in runner.message_hub.log_scalars}
    torch.save({key: float(value) for key, value in values.items() if 'health' in key}, Path(directory, f'{rank}.pth'))


@pytest.mark.ranks
def test_ranks_agree(tmp_path):
    run_ranks(gathered, 2, tmp_path, str(tmp_path))
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    assert first == second
    assert first
