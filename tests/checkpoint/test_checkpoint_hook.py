"""The order of saving: a real full disk, validations, time, a thread, several ranks; against runs without trouble."""

import os
import resource
import time
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toy import toy_runner
from mmengine.hooks import Hook
from mmengine.runner import Runner

from unmix.checkpoint.hook import CheckpointHook
from unmix.checkpoint.latest import find_latest_checkpoint
from unmix.testing.ranks import run_ranks

# Weights and momentum: 480 kB.
BIG = dict(model__dim=20_000, train_dataloader__dataset__dim=20_000, optim_wrapper__optimizer__lr=1e-6)


def saver(runner: Runner) -> CheckpointHook:
    return next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))


class FullDisk(Hook):
    """Files stay below 200 kB, which logs do and checkpoints do not, in the given epochs; 4 is after the training."""

    priority = 'VERY_HIGH'

    def __init__(self, epochs: set[int]) -> None:
        self.epochs = epochs
        self.hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def before_train_epoch(self, runner: Runner) -> None:
        self.limit(runner, runner.epoch + 1)

    def after_train(self, runner: Runner) -> None:
        self.limit(runner, 4)

    def limit(self, runner: Runner, epoch: int) -> None:
        saver(runner).writer.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000 if epoch in self.epochs else self.hard, self.hard))


class Validate(Hook):
    """Every epoch has the given accuracy, as a validation would say."""

    def __init__(self, accuracies: list[float]) -> None:
        self.accuracies = accuracies

    def after_train_epoch(self, runner: Runner) -> None:
        runner.train_loop._epoch += 1
        saver(runner).after_val_epoch(runner, {'acc': self.accuracies[runner.epoch - 1]})
        runner.train_loop._epoch -= 1


def train(work_dir: Path, *hooks: Hook, **checkpoint: Any) -> Runner:
    changes = {f'default_hooks__checkpoint__{key}' if '__' not in key else key: x for key, x in checkpoint.items()}
    runner = toy_runner(work_dir, **(BIG | dict(default_hooks__checkpoint__interval=1) | changes))
    for hook in hooks:
        runner.register_hook(hook, priority='LOWEST' if isinstance(hook, Validate) else None)
    try:
        runner.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
    return runner


def files(work_dir: Path) -> list[str]:
    return sorted(path.name for path in work_dir.iterdir() if path.suffix == '.pth')


def latest(work_dir: Path) -> str:
    path = find_latest_checkpoint(str(work_dir))
    assert path == (work_dir / 'last_checkpoint').read_text()
    return Path(path).name


@pytest.mark.slow
@pytest.mark.parametrize('background', [False, True])
def test_a_full_disk_stops_the_run_and_keeps_what_there_is(background: bool, tmp_path: Path):
    with pytest.raises(OSError, match=r'epoch_2\.pth could not be written: File too large\. It needs 0\.\d MiB'):
        train(tmp_path, FullDisk({2}), max_keep_ckpts=1, background=background)
    assert files(tmp_path) == ['epoch_1.pth']
    assert latest(tmp_path) == 'epoch_1.pth'


@pytest.mark.slow
@pytest.mark.parametrize('background', [False, True])
def test_a_full_disk_is_sat_out_by_choice(background: bool, tmp_path: Path):
    runner = train(tmp_path, FullDisk({2}), max_keep_ckpts=1, background=background, on_write_error='warn')
    assert runner.iter == 18
    assert files(tmp_path) == ['epoch_3.pth']
    assert latest(tmp_path) == 'epoch_3.pth'
    assert runner.message_hub.get_info('keep_ckpt_ids') == [3]
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert 'ERROR' in log
    assert 'epoch_2.pth could not be written: File too large' in log


@pytest.mark.slow
@pytest.mark.parametrize('background', [False, True])
def test_ids_of_failed_checkpoints_push_no_good_one_out(background: bool, tmp_path: Path):
    with pytest.raises(OSError, match=r'epoch_3\.pth could not be written'):
        train(tmp_path, FullDisk({2, 3, 4}), max_keep_ckpts=2, background=background, on_write_error='warn')
    assert files(tmp_path) == ['epoch_1.pth']
    assert latest(tmp_path) == 'epoch_1.pth'


@pytest.mark.slow
def test_what_could_not_be_written_in_the_end_is_tried_again(tmp_path: Path):
    train(tmp_path, FullDisk({3}), max_keep_ckpts=2, on_write_error='warn')
    assert files(tmp_path) == ['epoch_2.pth', 'epoch_3.pth']


@pytest.mark.slow
def test_after_a_failure_the_next_epoch_is_saved_although_it_is_not_its_turn(tmp_path: Path):
    train(tmp_path, FullDisk({2}), interval=2, on_write_error='warn', train_cfg__max_epochs=4, save_last=False)
    assert files(tmp_path) == ['epoch_3.pth', 'epoch_4.pth']


@pytest.mark.slow
@pytest.mark.parametrize('background', [False, True])
def test_the_best_one_is_replaced_by_a_complete_better_one_only(background: bool, tmp_path: Path):
    best = dict(save_best='acc', rule='greater', max_keep_ckpts=1, background=background)
    runner = train(tmp_path / 'good', Validate([1.0, 3.0, 2.0]), **best)
    assert files(tmp_path / 'good') == ['best_acc_epoch_2.pth', 'epoch_3.pth']
    assert runner.message_hub.get_info('best_score') == 3.0
    runner = train(tmp_path / 'full', Validate([1.0, 3.0, 2.0]), FullDisk({2}), on_write_error='warn', **best)
    assert files(tmp_path / 'full') == ['best_acc_epoch_3.pth', 'epoch_3.pth']
    assert runner.message_hub.get_info('best_score') == 2.0


@pytest.mark.slow
def test_checkpoints_do_not_depend_on_the_thread(tmp_path: Path):
    train(tmp_path / 'a', max_keep_ckpts=-1, background=False)
    train(tmp_path / 'b', max_keep_ckpts=-1, background=True)
    for name in ('epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth'):
        a, b = (torch.load(tmp_path / run / name, weights_only=False) for run in 'ab')
        assert torch.equal(a['state_dict']['layer.weight'], b['state_dict']['layer.weight'])
        momenta = [x['optimizer']['state'][0]['momentum_buffer'] for x in (a, b)]
        assert torch.equal(*momenta)


@pytest.mark.slow
def test_an_error_of_the_training_waits_for_the_thread(tmp_path: Path):
    class Break(Hook):
        def before_train_epoch(self, runner: Runner) -> None:
            if runner.epoch == 1:
                raise RuntimeError('broken')

    with pytest.raises(RuntimeError, match='broken'):
        train(tmp_path, Break(), background=True)
    assert latest(tmp_path) == 'epoch_1.pth'


EACH = BIG | dict(default_hooks__checkpoint=dict(by_epoch=False, interval=1, background=True, max_keep_ckpts=2))


def save_in_each_iteration(work_dir: Path) -> None:
    with open(os.devnull, 'w', encoding='utf-8') as output, redirect_stdout(output):
        toy_runner(work_dir, **EACH).train()


@pytest.mark.slow
def test_killed_while_the_thread_writes(tmp_path: Path):
    """SIGKILL at four moments: there is always a whole checkpoint, with the weights of its iteration."""
    weights: dict[int, torch.Tensor] = {}
    whole = toy_runner(tmp_path / 'whole', **EACH)
    whole.signal_hook.after_train_iter = lambda runner, **_: weights.update(
        {runner.iter + 1: runner.model.layer.weight.detach().clone()}
    )
    whole.train()
    context = get_context('forkserver')
    context.set_forkserver_preload(['torch', 'engine_toy'])
    for number in range(4):
        work_dir = tmp_path / str(number)
        process = context.Process(target=save_in_each_iteration, args=(work_dir,))
        process.start()
        while process.is_alive() and not (work_dir / 'last_checkpoint').exists():
            time.sleep(0.002)
        time.sleep(number / 50)
        process.kill()
        process.join()
        path = find_latest_checkpoint(str(work_dir))
        assert path is not None
        checkpoint = torch.load(path, weights_only=False)
        iteration = checkpoint['meta']['iter']
        assert Path(path).name == f'iter_{iteration}.pth'
        assert torch.equal(checkpoint['state_dict']['layer.weight'], weights[iteration])


@pytest.mark.slow
def test_saved_by_time(tmp_path: Path):
    class Kill(Hook):
        def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
            if runner.iter == 15:
                raise RuntimeError('killed')

    with pytest.raises(RuntimeError, match='killed'):
        train(tmp_path, Kill(), interval=4, interval_minutes=0)
    assert files(tmp_path) == ['iter_11.pth']  # the clock is looked at in iterations 1, 11, ...
    whole = train(tmp_path / 'whole')
    resumed = toy_runner(tmp_path, **BIG, resume=True, default_hooks__checkpoint__interval=3)
    resumed.train()
    assert resumed.signal_hook.batches == [5, *range(6)]
    assert torch.equal(resumed.model.layer.weight, whole.model.layer.weight)
    assert files(tmp_path) == ['epoch_3.pth']


def test_not_saved_by_time_with_half_accumulated_gradients(tmp_path: Path):
    toy = toy_runner(
        tmp_path,
        train_cfg__max_epochs=1,
        default_hooks__checkpoint=dict(interval=4, save_last=False, interval_minutes=0),
        optim_wrapper__accumulative_counts=4,
    )
    toy.train()
    assert files(tmp_path) == ['iter_4.pth']


@pytest.mark.slow
def test_what_a_killed_run_has_begun_is_removed(tmp_path: Path):
    (tmp_path / '.epoch_7.1.pth').write_bytes(b'half a file')
    train(tmp_path)
    assert not (tmp_path / '.epoch_7.1.pth').exists()


def test_bad_arguments():
    with pytest.raises(ValueError, match="on_write_error is 'ignore'; it is 'stop' or 'warn'"):
        CheckpointHook(on_write_error='ignore')
    for remote in (dict(out_dir='s3://bucket'), dict(backend_args=dict(backend='local'))):
        with pytest.raises(ValueError, match='checkpoints are local files'):
            CheckpointHook(**remote)


def two_ranks(rank: int, work_dir: Path) -> None:
    checkpoint = dict(interval=1, max_keep_ckpts=1, background=True, on_write_error='warn')
    runner = toy_runner(work_dir, **BIG, default_hooks__checkpoint=checkpoint)
    if rank == 0:
        runner.register_hook(FullDisk({2, 3, 4}))
    with pytest.raises(OSError, match=r'epoch_3\.pth could not be written'):
        runner.train()
    assert runner.message_hub.get_info('keep_ckpt_ids') == [1]
    assert find_latest_checkpoint(str(work_dir)) == str(work_dir / 'epoch_1.pth')


@pytest.mark.ranks
def test_all_ranks_know_that_rank_zero_could_not_write(tmp_path: Path):
    run_ranks(two_ranks, 2, tmp_path, tmp_path / 'run')
    assert files(tmp_path / 'run') == ['epoch_1.pth']
