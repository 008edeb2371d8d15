"""bfloat16 in the forward pass, float32 everywhere else."""

import pytest
import torch
from engine_toy import toy_runner

from unmix.engine.optimizers import AutocastOptimWrapper


def test_bfloat16_activations_float32_state(tmp_path):
    plain, mixed = toy_runner(tmp_path / 'a'), toy_runner(tmp_path / 'b', optim_wrapper__type='AutocastOptimWrapper')
    for runner in (plain, mixed):
        runner.train()
    assert (plain.model.dtype, mixed.model.dtype) == (torch.float32, torch.bfloat16)
    for parameter in mixed.model.parameters():
        assert parameter.dtype == torch.float32
        assert mixed.optim_wrapper.optimizer.state[parameter]['momentum_buffer'].dtype == torch.float32
    weights = [runner.model.layer.weight for runner in (plain, mixed)]
    assert not torch.equal(*weights)
    torch.testing.assert_close(*weights, atol=0.02, rtol=0.02)


def test_autocast_ends_with_the_forward_pass():
    model = torch.nn.Linear(2, 2)
    wrapper = AutocastOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with wrapper.optim_context(model):
        assert model(torch.ones(1, 2)).dtype == torch.bfloat16
    assert model(torch.ones(1, 2)).dtype == torch.float32


def test_float16_is_refused():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(ValueError, match=r"optim_wrapper.dtype is 'float16'.*AmpOptimWrapper"):
        AutocastOptimWrapper(dtype='float16', optimizer=optimizer)
