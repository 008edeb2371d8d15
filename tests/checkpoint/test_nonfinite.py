"""No checkpoint with NaN or infinity in weights or optimiser is written, nor named; by trainings that have some."""

import math
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toy import toy_runner
from mmengine.hooks import Hook
from mmengine.registry import init_default_scope
from mmengine.runner import CheckpointLoader, Runner

from unmix.checkpoint.latest import find_latest_checkpoint
from unmix.checkpoint.save import save_checkpoint
from unmix.testing.ranks import run_ranks


class Spoil(Hook):
    """Sets one number of a tensor before the checkpoint of an epoch, on rank 0, which saves."""

    priority = 'HIGH'  # before CheckpointHook

    def __init__(self, epoch: int, value: float = math.nan, optimizer: bool = False) -> None:
        self.epoch, self.value, self.optimizer = epoch, value, optimizer

    def after_train_epoch(self, runner: Runner) -> None:
        if runner.epoch + 1 == self.epoch and runner.rank == 0:
            weight = next(iter(runner.model.parameters()))
            tensor = runner.optim_wrapper.optimizer.state[weight]['momentum_buffer'] if self.optimizer else weight
            tensor.detach().view(-1)[2] = self.value


def train(work_dir: Path, *hooks: Hook, **changes: Any) -> Runner:
    runner = toy_runner(work_dir, **(dict(default_hooks__checkpoint__interval=1) | changes))
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


def files(work_dir: Path) -> list[str]:
    return sorted(path.name for path in work_dir.iterdir() if 'pth' in path.name)


@pytest.mark.slow
@pytest.mark.parametrize('background', [False, True])
@pytest.mark.parametrize('on_write_error', ['stop', 'warn'])
def test_the_run_ends_and_the_last_good_checkpoint_stays_the_last(
    on_write_error: str, background: bool, tmp_path: Path
):
    settings = dict(interval=1, max_keep_ckpts=1, on_write_error=on_write_error, background=background)
    message = (
        rf"checkpoint '{tmp_path}/epoch_2\.pth' is not written: layer\.weight in its state_dict is NaN or infinite in "
        rf'1 of 18 values\. Go on from {tmp_path}/epoch_1\.pth, the newest that is whole, with a lower .*lr'
    )
    with pytest.raises(ValueError, match=message):
        train(tmp_path, Spoil(2), default_hooks__checkpoint=settings)
    assert files(tmp_path) == ['epoch_1.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_1.pth')
    assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_1.pth')
    resumed = train(tmp_path, resume=True)
    assert torch.equal(resumed.model.layer.weight, train(tmp_path / 'whole').model.layer.weight)


@pytest.mark.slow
@pytest.mark.parametrize('value', [math.inf, -math.inf, math.nan])
def test_a_state_of_the_optimiser_counts(value: float, tmp_path: Path):
    with pytest.raises(ValueError, match=r'state\.0\.momentum_buffer in its optimizer is NaN or infinite in 1 of 18'):
        train(tmp_path, Spoil(2, value, optimizer=True))
    assert files(tmp_path) == ['epoch_1.pth']


def test_without_an_older_one_the_advice_is_to_start_anew(tmp_path: Path):
    with pytest.raises(ValueError, match=r'No older one is whole: start anew with a lower'):
        train(tmp_path, Spoil(1))
    assert files(tmp_path) == []
    assert not (tmp_path / 'last_checkpoint').exists()


def test_an_older_one_that_is_damaged_is_not_recommended(tmp_path: Path):
    def damage(runner: Runner) -> None:
        content = (tmp_path / 'epoch_2.pth').read_bytes()
        (tmp_path / 'epoch_2.pth').write_bytes(content[:500] + b'?' + content[501:])

    hook = Spoil(3)
    hook.before_train_epoch = lambda runner: damage(runner) if runner.epoch == 2 else None
    with pytest.raises(ValueError, match=rf'Go on from {tmp_path}/epoch_1\.pth'):
        train(tmp_path, hook, default_hooks__checkpoint__max_keep_ckpts=-1)


def test_mmengines_own_hook_saves_none_either(tmp_path: Path):
    with pytest.raises(ValueError, match=r'epoch_2\.pth. is not written: layer\.weight'):
        train(
            tmp_path,
            Spoil(2),
            default_hooks__checkpoint=dict(_delete_=True, type='mmengine.CheckpointHook', interval=1),
        )
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_1.pth')
    assert 'epoch_2.pth' not in files(tmp_path)


def test_a_signal_saves_none_either(tmp_path: Path):
    class SpoilAndStop(Hook):
        def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
            if runner.iter == 8:
                runner.model.layer.bias.data[1] = math.nan
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(ValueError, match=r'interrupted_iter_9\.pth. is not written: layer\.bias'):
        train(tmp_path, SpoilAndStop())
    assert files(tmp_path) == ['epoch_1.pth']
    assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_1.pth')


def two_ranks(rank: int, work_dir: Path) -> None:
    with pytest.raises(ValueError, match=r'epoch_2\.pth. is not written: layer\.weight'):
        train(work_dir, Spoil(2), default_hooks__checkpoint__background=True)
    (work_dir.parent / f'rank_{rank}').touch()


@pytest.mark.slow
def test_all_ranks_stop(tmp_path: Path):
    run_ranks(two_ranks, 2, tmp_path, tmp_path / 'run')
    assert (tmp_path / 'rank_0').exists()
    assert (tmp_path / 'rank_1').exists()
    assert files(tmp_path / 'run') == ['epoch_1.pth']


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_every_floating_type_is_looked_at(dtype: torch.dtype, tmp_path: Path):
    path = str(tmp_path / 'x.pth')
    content = dict(state_dict=dict(n=torch.tensor(3), empty=torch.ones(0), w=torch.ones(3, 3).to(dtype)), optimizer={})
    init_default_scope('unmix')
    save_checkpoint(content, path)
    content['optimizer'] = dict(a=dict(state={0: [torch.tensor([1.0, math.nan]).to(dtype)]}))
    with pytest.raises(ValueError, match=re.escape('a.state.0.0 in its optimizer is NaN or infinite in 1 of 2')):
        save_checkpoint(content, path)
    assert CheckpointLoader.load_checkpoint(path)['optimizer'] == {}


def test_a_run_of_another_toolbox_may_save_infinity(tmp_path: Path):
    path = str(tmp_path / 'x.pth')
    init_default_scope('mmdet')
    save_checkpoint(dict(state_dict=dict(mask=torch.tensor([0.0, -math.inf]))), path)
    assert CheckpointLoader.load_checkpoint(path)['state_dict']['mask'].tolist() == [0.0, -math.inf]
