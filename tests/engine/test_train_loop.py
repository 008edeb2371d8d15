"""The loop against an uninterrupted run, MMEngine's own loop, and real signals."""

import copy
import itertools
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from engine_toy import RUNTIME, toy_runner
from mmengine.runner import find_latest_checkpoint

from unmix.checkpoint.resume import resume_command
from unmix.engine.loops import StopSignal
from unmix.engine.loops.stop_signal import SIGNALS


def state(runner):
    optimizer = runner.optim_wrapper.state_dict()
    schedules = [(s.last_step, s.get_last_value()) for s in runner.param_schedulers]
    return copy.deepcopy([runner.model.state_dict(), optimizer, schedules, runner.iter, runner.epoch])


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def interrupt(work_dir, at, **changes):
    runner = toy_runner(work_dir, signal_at=at, **changes)
    with pytest.raises(SystemExit) as stop:
        runner.train()
    assert stop.value.code == 130
    return runner


@pytest.mark.slow
@pytest.mark.parametrize('at', [0, 7, 11, 16])
@pytest.mark.parametrize('sampler', ['EpochSampler', 'DefaultSampler'])
@pytest.mark.parametrize('accumulate', [1, 4])
def test_interrupted_run_equals_uninterrupted(tmp_path, at, sampler, accumulate):
    changes = dict(train_dataloader__sampler__type=sampler, optim_wrapper__accumulative_counts=accumulate)
    whole = toy_runner(tmp_path / 'whole', **changes)
    whole.train()
    first = interrupt(tmp_path / 'parts', at, **changes)
    assert at < first.iter <= at + accumulate
    assert first.iter % accumulate == 0 or first.iter == 18
    second = toy_runner(tmp_path / 'parts', resume=True, **changes)
    second.train()
    assert_same(state(second), state(whole))
    assert first.model.seen + second.model.seen == whole.model.seen
    assert first.signal_hook.batches + second.signal_hook.batches == 3 * list(range(6))
    assert [path.name for path in (tmp_path / 'parts').glob('*.pth')] == ['epoch_3.pth']
    infos = [runner.message_hub.state_dict() for runner in (second, whole)]
    assert infos[0]['resumed_keys'] == infos[1]['resumed_keys']
    assert infos[0]['runtime_info'].keys() == infos[1]['runtime_info'].keys()
    loaded = second.train_dataloader.dataset.loaded
    if sampler == 'EpochSampler':  # nothing is loaded to be thrown away
        assert loaded == list(itertools.chain(*second.model.seen))
    scalars = whole.message_hub.log_scalars
    for name, buffer in second.message_hub.log_scalars.items():
        if 'time' not in name:
            assert buffer.data[0].tolist() == scalars[name].data[0][-len(buffer.data[0]) :].tolist()


@pytest.mark.slow
def test_one_checkpoint_of_many_interruptions_is_kept_until_the_next_regular_one(tmp_path):
    """So is one that the time had asked for."""
    timed = dict(default_hooks__checkpoint__interval_minutes=0)
    files = []
    for at, changes in ((1, timed), (2, {}), (3, {})):  # the clock is looked at in iteration 1
        interrupt(tmp_path, at, resume=bool(files), **changes)
        files.append([path.name for path in tmp_path.glob('*.pth')])
    assert files == [['interrupted_iter_2.pth'], ['interrupted_iter_3.pth'], ['interrupted_iter_4.pth']]


@pytest.mark.slow
def test_checkpoint_hook_mid_epoch(tmp_path):
    whole = toy_runner(
        tmp_path, default_hooks__checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4, max_keep_ckpts=-1)
    )
    whole.train()
    for name in ('iter_4.pth', 'iter_12.pth'):  # the middle of an epoch, and its last iteration
        again = toy_runner(tmp_path / 'again', resume=True, load_from=str(tmp_path / name))
        again.train()
        assert_same(state(again), state(whole))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('at', 'before', 'after'),
    [(5, [], [1, 2, 3]), (6, [1], [2, 3]), (11, [1], [2, 3]), (17, [1, 2], [3])],
)
def test_due_validation_runs_once(tmp_path, at, before, after):
    changes = dict(
        val_cfg=dict(type='mmengine.CountLoop'),
        val_dataloader=dict(batch_size=1, dataset=dict(type='mmengine.ToyData'), sampler=dict(type='EpochSampler')),
        val_evaluator=dict(),
    )
    first = interrupt(tmp_path, at, **changes)
    second = toy_runner(tmp_path, resume=True, **changes)
    second.train()
    assert (first.val_loop.epochs, second.val_loop.epochs) == (before, after)


@pytest.mark.slow
def test_same_as_mmengine(tmp_path):
    """Weights, EMA, schedules, histories and scalars.json of a run with MMEngine's own loop and hooks."""
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    changes = dict(
        custom_hooks=[dict(type='EMAHook', momentum=0.1)],
        default_hooks__logger__interval=2,
        visualizer__vis_backends=backends,
        optim_wrapper__accumulative_counts=2,
        optim_wrapper__clip_grad=dict(max_norm=1.0),
    )
    ours = toy_runner(tmp_path / 'ours', **changes)
    ours.train()
    theirs = toy_runner(
        tmp_path / 'theirs',
        train_cfg__type='EpochBasedTrainLoop',
        default_hooks__runtime_info__type='RuntimeInfoHook',
        default_hooks__timer__type='IterTimerHook',
        **changes,
    )
    theirs.train()
    assert_same(state(ours), state(theirs))
    files = [torch.load(find_latest_checkpoint(r.work_dir), weights_only=False) for r in (ours, theirs)]
    assert_same(files[0]['ema_state_dict'], files[1]['ema_state_dict'])
    for name, theirs_buffer in theirs.message_hub.log_scalars.items():
        if 'time' not in name:
            assert ours.message_hub.get_scalar(name).data[0].tolist() == theirs_buffer.data[0][-50:].tolist()
    lines = [scalar_lines(runner) for runner in (ours, theirs)]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 9
    assert list(Path(ours.work_dir).rglob('events.out.tfevents*'))


def scalar_lines(runner):
    (file,) = Path(runner.work_dir).rglob('scalars.json')
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [{k: v for k, v in line.items() if 'time' not in k} for line in lines]


def test_batch_larger_than_data(tmp_path):
    runner = toy_runner(tmp_path, train_dataloader__batch_size=25)
    with pytest.raises(ValueError, match=r'train_dataloader.batch_size is 25, but .* only 24 images.*batch_size=8$'):
        runner.train()


@pytest.mark.slow
def test_other_batch_size_in_the_middle_of_an_epoch(tmp_path):
    interrupt(tmp_path, 7)
    runner = toy_runner(tmp_path, resume=True, train_dataloader__batch_size=8)
    with pytest.raises(ValueError, match=r'after 2 of 6 batches of epoch 2, but an epoch has 3 .*batch_size'):
        runner.train()


@pytest.mark.slow
def test_other_batch_size_at_the_end_of_an_epoch(tmp_path):
    toy_runner(tmp_path, train_cfg__max_epochs=2).train()
    runner = toy_runner(tmp_path, resume=True, train_dataloader__batch_size=8)
    runner.train()
    assert runner.iter == runner.max_iters == 9
    assert runner.signal_hook.batches == [0, 1, 2]


def test_hooks_clean_up_after_an_error(tmp_path):
    runner = toy_runner(tmp_path)
    calls = []
    runner.signal_hook.on_abort = calls.append
    runner.signal_hook.after_train_iter = lambda *args, **kwargs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        runner.train()
    assert calls == [runner]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.path.insert(0, sys.argv[2])
from engine_toy import toy_runner
runner = toy_runner(sys.argv[1], train_cfg__max_epochs=100000, train_dataloader__num_workers=int(sys.argv[3]))
runner.signal_hook.after_train_epoch = lambda runner: print('RUNNING', flush=True)
runner.train()
"""


@pytest.mark.parametrize(
    ('number', 'code', 'workers'),
    [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 0), (signal.SIGHUP, 129, 2), (signal.SIGUSR1, 138, 2)],
)
@pytest.mark.slow
def test_signal_to_a_process(tmp_path, number, code, workers):
    command = [sys.executable, '-c', SCRIPT, str(tmp_path), str(Path(__file__).parent), str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    while 'RUNNING' not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == code, output
    assert 'Traceback' not in output
    checkpoint = find_latest_checkpoint(str(tmp_path))
    assert Path(checkpoint).name.startswith('interrupted_iter_')
    assert Path(checkpoint).is_file()
    assert checkpoint in output
    assert output.rstrip().endswith(f'python tools/train.py {RUNTIME} --work-dir {tmp_path} --resume')


@pytest.mark.parametrize('number', SIGNALS)
def test_each_signal_saves(tmp_path, number):
    runner = toy_runner(tmp_path, signal_at=7)
    runner.signal_hook.number = number
    with pytest.raises(SystemExit) as stop:
        runner.train()
    assert stop.value.code == 128 + number
    assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / 'interrupted_iter_8.pth')
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_a_signal_that_the_process_ignores_stays_ignored(tmp_path):
    """As SIGHUP after nohup."""
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        runner = toy_runner(tmp_path, signal_at=7)
        runner.signal_hook.number = signal.SIGHUP
        runner.train()
        assert runner.iter == 18
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, old)


@pytest.mark.slow
@pytest.mark.parametrize('moment', ['before_train', 'before_save_checkpoint', 'before_val', 'after_train_epoch'])
def test_a_signal_at_any_moment_saves(tmp_path, moment):
    """Before the first iteration, while a checkpoint is built, during a validation, between epochs."""
    changes = dict(
        val_cfg=dict(type='mmengine.CountLoop'),
        val_dataloader=dict(batch_size=1, dataset=dict(type='mmengine.ToyData'), sampler=dict(type='EpochSampler')),
        val_evaluator=dict(),
        default_hooks__checkpoint__interval=1,
    )
    runner = toy_runner(tmp_path, **changes)
    if moment == 'before_val':
        runner._val_loop = dict(runner._val_loop, type='mmengine.SignalLoop')
    else:
        setattr(runner.signal_hook, moment, lambda *args, **kwargs: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as stop:
        runner.train()
    assert stop.value.code == 143
    path = find_latest_checkpoint(str(tmp_path))
    assert torch.load(path, weights_only=False)['meta']['iter'] == (1 if moment == 'before_train' else 6)
    second = toy_runner(tmp_path, resume=True, **changes)
    second.train()
    whole = toy_runner(tmp_path / 'whole', **changes)
    whole.train()
    assert_same(state(second), state(whole))


@pytest.mark.slow
def test_a_signal_that_ends_a_worker_of_the_validation(tmp_path):
    changes = dict(
        val_cfg=dict(type='mmengine.CountLoop'),
        val_dataloader=dict(batch_size=1, dataset=dict(type='mmengine.ToyData'), sampler=dict(type='EpochSampler')),
        val_evaluator=dict(),
    )
    runner = toy_runner(tmp_path, **changes)
    runner._val_loop = dict(runner._val_loop, type='mmengine.DyingLoop')
    with pytest.raises(SystemExit):
        runner.train()
    second = toy_runner(tmp_path, resume=True, **changes)
    second.train()
    assert second.val_loop.epochs == [1, 2, 3]


def test_resume_command_keeps_the_options(monkeypatch):
    monkeypatch.delenv('TORCHELASTIC_RUN_ID', raising=False)
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', 'a.py', '--cfg-options', 'x=[1, 2]'])
    command = "python tools/train.py a.py --cfg-options 'x=[1, 2]' --work-dir w --resume"
    assert resume_command('a.py', 'w').strip() == command
    monkeypatch.setattr(sys, 'argv', [*sys.argv, '--work-dir', 'w', '--resume'])
    assert resume_command('a.py', 'w').strip() == command
    monkeypatch.setattr(sys, 'argv', ['bin/unmix', 'train', 'a.py'])
    assert resume_command('a.py', 'w').strip() == 'bin/unmix train a.py --work-dir w --resume'
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', 'a.py'])
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'x')
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '2')
    assert resume_command('a.py', 'w').strip().startswith('torchrun --nnodes=1 --nproc_per_node=2 tools/train.py a.py')


def _rank(rank, path, answers):
    torch.distributed.init_process_group('gloo', init_method=f'file://{path}', rank=rank, world_size=2)
    with StopSignal() as stop:
        for i in range(10):
            if rank == 1 and i == 3:
                signal.raise_signal(signal.SIGTERM)
            if stop.requested():
                break
        answers[rank] = (i, stop.exit_code, stop.requested())


@pytest.mark.ranks
def test_ranks_stop_after_the_same_iteration(tmp_path):
    answers = mp.get_context('spawn').Manager().dict()
    mp.spawn(_rank, (tmp_path / 'store', answers), nprocs=2)
    assert dict(answers) == {0: (4, 143, True), 1: (4, 143, True)}
