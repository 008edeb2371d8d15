"""ScalarBuffer against MMEngine's HistoryBuffer."""

import copy
import pickle
import random

import pytest
import torch
from engine_toy import toy_runner
from mmengine.logging import HistoryBuffer

from unmix.engine.hooks import ScalarBuffer


@pytest.mark.slow
@pytest.mark.parametrize('length', [1, 7, 1000])
def test_same_statistics(length):
    rng = random.Random(0)
    ours, theirs = ScalarBuffer(max_length=length), HistoryBuffer(max_length=length)
    for i in range(4 * length + 5):
        value, count = rng.random(), rng.randint(1, 3)
        theirs.update(value, count)
        if i % 3:
            ours.update(value, count)
        else:
            ours.update(torch.tensor(value, dtype=torch.float64).reshape([1] * (i % 2)), count)
        if i % 5 == 0:
            window = rng.randint(1, length)
            for name, args in (('mean', (window,)), ('min', (window,)), ('max', (window,)), ('current', ())):
                assert ours.statistics(name, *args) == theirs.statistics(name, *args)
    for a, b in zip(ours.data, theirs.data, strict=True):
        assert a.tolist() == b.tolist()


def test_checkpoints_hold_a_plain_history_buffer():
    buffer = ScalarBuffer([1.0, 2.0], [1, 3])
    buffer.update(torch.tensor(4.0))
    for plain in (copy.deepcopy(buffer), pickle.loads(pickle.dumps(buffer))):
        assert type(plain) is HistoryBuffer
        assert [history.tolist() for history in plain.data] == [[1, 2, 4], [1, 3, 1]]


def test_a_tensor_on_an_accelerator_is_not_read_until_asked():
    buffer = ScalarBuffer()
    buffer.update(torch.empty((), device='meta'))  # reading a meta tensor raises
    with pytest.raises((RuntimeError, NotImplementedError)):
        buffer.current()


def test_histories_do_not_grow(tmp_path):
    runner = toy_runner(tmp_path, train_cfg__max_epochs=30, log_processor__window_size=5)
    runner.signal_hook.after_train_iter = lambda runner, **kwargs: runner.message_hub.update_scalar('train/own', 1.0)
    runner.train()
    lengths = {name: len(buffer.data[0]) for name, buffer in runner.message_hub.log_scalars.items()}
    terms = ['loss', 'loss_base', 'loss_unmix', 'extra']
    assert set(lengths) == {f'train/{name}' for name in [*terms, 'lr', 'time', 'data_time', 'own']}
    assert set(lengths.values()) == {6}  # the 180 iterations leave one epoch
