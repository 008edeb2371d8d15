"""``compile``, MMEngine's key for ``torch.compile``."""

import pytest
import torch
from engine_toy import toy_runner

from unmix.config import load_config


@pytest.mark.slow
def test_a_compiled_step_trains_the_same(tmp_path):
    runners = [toy_runner(tmp_path / 'plain'), toy_runner(tmp_path / 'compiled', compile=dict(backend='eager'))]
    for runner in runners:
        runner.train()
    plain, compiled = (runner.model for runner in runners)
    assert type(compiled.train_step) is not type(plain.train_step)
    assert all(torch.equal(value, compiled.state_dict()[key]) for key, value in plain.state_dict().items())
    assert torch._dynamo.utils.counters['stats']['calls_captured'] > 0


def test_the_key_can_be_given_as_an_option():
    cfg = load_config('unmix::quickstart/unmix-moco_digits.py', {'compile.backend': 'eager'})
    assert cfg.compile == dict(backend='eager')
