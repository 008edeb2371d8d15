"""Resumptions with more epochs than the run had, with fewer, and with none left."""

import signal
from pathlib import Path

import pytest
import torch
from engine_toy import toy_runner
from test_train_loop import assert_same, interrupt, state

RATES = {
    'ours': [dict(type='CosineLR', by_epoch=False)],
    'ours by epoch': [dict(type='CosineLR')],
    'ramp': [dict(type='RampCosineLR', warmup=1, convert_to_iter_based=True)],
    'recursive': [dict(type='CosineAnnealingLR', eta_min=1e-4, by_epoch=False)],
    'two': [dict(type='LinearLR', start_factor=0.1, end=2, by_epoch=False), dict(type='PolyLR', by_epoch=False)],
    'steps': [dict(type='MultiStepLR', milestones=[1, 3])],
    'momentum': [dict(type='CosineLR'), dict(type='CosineAnnealingMomentum', eta_min=0.5)],
    'weight decay': [dict(type='CosineLR'), dict(type='CosineWeightDecay', end_factor=10.0)],
}
# More than one parameter group: MMEngine then schedules settings of its own as one more.
GROUPS = dict(
    optim_wrapper__optimizer__weight_decay=0.01,
    optim_wrapper__paramwise_cfg=dict(
        custom_keys={'layer.weight': dict(lr_mult=0.5), 'layer.bias': dict(decay_mult=0.0, constant_lr=True)}
    ),
)
EACH = dict(default_hooks__checkpoint=dict(by_epoch=False, interval=3, max_keep_ckpts=-1))


def run(work_dir: Path, epochs: int, schedules, **changes):
    runner = toy_runner(work_dir, train_cfg__max_epochs=epochs, param_scheduler=schedules, **EACH, **changes)
    rates = []
    runner.signal_hook.after_train_iter = lambda runner, **_: rates.append(
        [tuple(group[key] for key in ('lr', 'momentum', 'weight_decay')) for group in runner.optim_wrapper.param_groups]
    )
    runner.train()
    return runner, rates


@pytest.mark.slow
@pytest.mark.filterwarnings('error:Detected call of `scheduler.step')
@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize(('kind', 'done'), [*((kind, 9) for kind in RATES), ('ours by epoch', 12)])
def test_extended_schedules_are_those_of_a_run_that_had_the_length_from_its_start(tmp_path, kind, done, groups, capsys):
    several = GROUPS if groups == 2 else {}
    first, _ = run(tmp_path, 2, RATES[kind], **several)
    assert len(first.optim_wrapper.optimizer.param_groups) == groups
    _, expected = run(tmp_path / 'long', 4, RATES[kind], **several)
    resume = dict(resume=True, load_from=str(tmp_path / f'iter_{done}.pth'))
    capsys.readouterr()
    extended, rates = run(tmp_path / 'extended', 4, RATES[kind], train_cfg__extend=True, **several, **resume)
    assert rates == expected[done:]
    assert 'The schedules are those of a run of 4 epochs (--extend)' in capsys.readouterr().out
    again = dict(resume=True, load_from=str(tmp_path / 'extended' / 'iter_15.pth'))
    for extend in (True, False):  # from then on with and without
        second, _ = run(tmp_path / f'again {extend}', 4, RATES[kind], train_cfg__extend=extend, **several, **again)
        assert_same(state(second), state(extended))
        assert 'are still those' not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(('done', 'epochs', 'words'), [
    (12, 4, 'each schedule is over, and the learning rate stays at 0.000852'),
    (9, 4, 'after epoch 2 each schedule is over, and the learning rate stays at its last value'),
    (3, 1, 'training ends before they do, after epoch 1'),
])  # fmt: skip
def test_without_it_the_old_schedules_are_said(tmp_path, capsys, done, epochs, words):
    _, before = run(tmp_path, 2, RATES['ours'])
    capsys.readouterr()
    resume = dict(resume=True, load_from=str(tmp_path / f'iter_{done}.pth'))
    _, rates = run(tmp_path / 'other', epochs, RATES['ours'], **resume)
    output = capsys.readouterr().out
    assert f'was 2 and is {epochs} now, but the schedules are still those of 2 epochs: {words}' in output
    assert '--extend beside --resume' in output
    assert rates == (before[done:] + [before[-1]] * 24)[: 6 * epochs - done]


@pytest.mark.slow
@pytest.mark.parametrize('epochs', [1, 2])
def test_a_finished_run_has_nothing_left(tmp_path: Path, capsys, epochs: int):
    run(tmp_path, 2, RATES['ours'])
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.suffix in ('.pth', '.json')}
    capsys.readouterr()
    runner, rates = run(tmp_path, epochs, RATES['ours'], resume=True)
    assert rates == []
    assert f'Nothing is left to train: train_cfg.max_epochs is {epochs}, and 2 are done. For more: --resume ' \
        '--extend --cfg-options train_cfg.max_epochs=4' in capsys.readouterr().out  # fmt: skip
    assert {path: path.read_bytes() for path in before} == before
    assert runner.iter == 12


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_last_iteration(tmp_path: Path, capsys, number: int):
    """All is trained then; the last validation and the last regular checkpoint follow after the resumption, once."""
    validate = dict(
        val_cfg=dict(type='mmengine.CountLoop'),
        val_dataloader=dict(batch_size=1, dataset=dict(type='mmengine.ToyData'), sampler=dict(type='EpochSampler')),
        val_evaluator=dict(),
    )
    runner = toy_runner(tmp_path, signal_at=17, **validate)
    runner.signal_hook.number = number
    with pytest.raises(SystemExit) as stop:
        runner.train()
    assert stop.value.code == 128 + number
    second = toy_runner(tmp_path, resume=True, **validate)
    second.train()
    assert 'Nothing is left to train' in capsys.readouterr().out
    assert second.val_loop.epochs == [3]
    assert second.signal_hook.batches == []
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_3.pth']
    third = toy_runner(tmp_path, resume=True, **validate)
    third.train()
    assert third.val_loop.epochs == []
    assert_same(state(third), state(second))


@pytest.mark.slow
def test_extending_after_an_interruption_in_between(tmp_path: Path):
    first = interrupt(tmp_path, 8)
    runner = toy_runner(tmp_path, resume=True, train_cfg__max_epochs=5, train_cfg__extend=True)
    runner.train()
    assert first.iter + len(runner.signal_hook.batches) == 30
    assert runner.optim_wrapper.param_groups[0]['lr'] < 1e-3
    assert torch.isfinite(runner.model.layer.weight).all()
