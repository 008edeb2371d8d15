"""What a loss that is not finite leaves behind for later: in checkpoints, in captures, of W-MSE too."""

import pytest
import torch
from algorithms_under_test import ALGORITHMS
from test_finite_loss_hook import UNMIX, Spoil, equal, run_tool, spoilt_runner, state, stopped
from torch.nn import functional as F

from unmix.models import MLPNeck
from unmix.registry import MODELS

pytestmark = pytest.mark.slow

EACH = dict(type='CheckpointHook', by_epoch=False, interval=1, max_keep_ckpts=-1)


@MODELS.register_module(force=True)
class DropoutNeck(MLPNeck):
    """Draws from the global generator, as the layers of a user may."""

    def forward(self, x):
        return super().forward(F.dropout(x, training=self.training))


def test_replay_drops_the_same_units_out(tmp_path, capsys, monkeypatch):
    torch.manual_seed(5)  # the generators are elsewhere when the step is replayed
    neck = dict(ALGORITHMS['moco-v2']['neck'], type='DropoutNeck')
    _, path = stopped(tmp_path, Spoil(), unmix=UNMIX, model__neck=neck)
    torch.manual_seed(6)
    capsys.readouterr()
    assert run_tool(monkeypatch, path) is None
    printed = capsys.readouterr().out
    assert 'not finite first: nothing' in printed  # the infinity was not the model's
    assert printed.count(' equal') == 2


@pytest.mark.parametrize('start', [3, 4, 5])
def test_a_run_that_skipped_goes_on_as_if_uninterrupted(tmp_path, start):
    """The step of iterations 2 to 5 is left out for the third; it is resumed before, in, and after the fault."""
    wrapper = dict(type='OptimWrapper', accumulative_counts=4, optimizer=dict(type='SGD', lr=0.05), _delete_=True)
    changes = dict(optim_wrapper=wrapper, default_hooks__checkpoint=EACH)
    runners = [spoilt_runner(tmp_path / 'whole', Spoil(at=(4,)), 'skip', **changes)]
    runners[0].train()
    path = tmp_path / 'whole' / f'iter_{start}.pth'
    spoil = Spoil(at=(4,) if start <= 4 else ())
    runners.append(spoilt_runner(tmp_path / 'parts', spoil, 'skip', resume=True, load_from=str(path), **changes))
    runners[1].train()
    assert equal(*map(state, runners))
    infos = [runner.message_hub.runtime_info for runner in runners]
    assert [(info['nonfinite_losses'], info.get('step_left_out')) for info in infos] == [(1, False)] * 2


@pytest.mark.parametrize('policy', ['stop', 'skip', 'rollback'])
def test_features_that_cannot_be_whitened_are_a_loss_that_is_not_finite(tmp_path, policy):
    """W-MSE raises for those who call it; in a training the policy counts."""
    spoil, why = Spoil('images', at=(7,)), 'covariance of a sub-batch stays singular, so features are NaN'
    runner = spoilt_runner(tmp_path, spoil, policy, name='wmse', unmix=UNMIX)
    if policy == 'stop':
        with pytest.raises(ValueError, match=rf'^The loss of iteration 8 .*is left out\. W-MSE: the {why}.*replay\.py'):
            runner.train()
        assert equal(state(runner), spoil.before[7])
    else:
        runner.train()
        assert equal(spoil.before[8], spoil.before[7] if policy == 'skip' else spoil.after[4])
        assert not equal(spoil.before[9], spoil.before[8])
    with pytest.raises(ValueError, match=why):  # nobody watches any more
        MODELS.build(ALGORITHMS['wmse']).loss([torch.full((6, 3, 8, 8), torch.nan)] * 2)
