"""Checkpoints from which a run cannot go on, and configs that have changed in between."""

import shutil
from pathlib import Path

import pytest
import torch
from engine_toy import toy_runner

SGD = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9), _delete_=True)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory) -> Path:
    """After 9 of 18 iterations, in the middle of an epoch."""
    folder = tmp_path_factory.mktemp('run')
    runner = toy_runner(folder, signal_at=8)
    with pytest.raises(SystemExit):
        runner.train()
    return folder / 'interrupted_iter_9.pth'


def resume(work_dir, path, **changes):
    runner = toy_runner(work_dir, resume=True, load_from=str(path), **changes)
    runner.train()
    return runner


@pytest.mark.parametrize(('missing', 'message'), [
    (['optimizer'], r'\(.*x\.pth\): it has no optimizer\. .* load_from=PATH'),
    (['meta', 'message_hub', 'optimizer', 'param_schedulers'], 'it has no meta, message_hub, optimizer, param_schedu'),
])  # fmt: skip
def test_weights_alone_are_not_gone_on_with(tmp_path, checkpoint, missing, message):
    values = torch.load(checkpoint, weights_only=False)
    torch.save({key: value for key, value in values.items() if key not in missing}, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=message):
        resume(tmp_path, tmp_path / 'x.pth')


@pytest.mark.parametrize(('changes', 'message'), [
    (
        dict(optim_wrapper=SGD | dict(optimizer=dict(type='AdamW', lr=0.05))),
        r'optim_wrapper\.optimizer is not .*: 1 with dampening, momentum, nesterov then, 1 with amsgrad, betas',
    ),
    (dict(param_scheduler=[dict(type='CosineLR')]), r'param_scheduler is not .*: 2 with gamma, milestones then, 1 now'),
    (
        dict(param_scheduler=[dict(type='LinearLR'), dict(type='MultiStepLR', milestones=[1])]),
        r'param_scheduler is not .*: 2 with T_max, .* then, 2 with .*start_factor, total_iters now',
    ),
])  # fmt: skip
def test_state_of_another_kind_is_not_filled_in(tmp_path, checkpoint, changes, message):
    with pytest.raises(ValueError, match=message):
        resume(tmp_path, checkpoint, **changes)


@pytest.mark.slow
def test_a_changed_config_is_shown_and_the_same_one_is_not(tmp_path, checkpoint, capsys):
    same = resume(tmp_path / 'same', checkpoint)
    assert 'The config has changed' not in capsys.readouterr().out
    other = resume(tmp_path / 'other', checkpoint, optim_wrapper__optimizer__lr=0.01, randomness__seed=3)
    warning = capsys.readouterr().out.partition('The config has changed')[2].partition('WARNING')[0]
    assert 'Seed, learning rates, other settings of the optimiser, and schedules are those of the checkpoint' in warning
    changed = [line for line in warning.splitlines() if line[0] in '+-']
    assert [line for line in changed if 'lr=' not in line] == [
        '-randomness = dict(deterministic=False, seed=0)',
        '+randomness = dict(deterministic=False, seed=3)',
    ]
    assert [line[0] + line.partition('lr=')[2][:4] for line in changed if 'lr=' in line] == ['-0.05', '+0.01']
    assert torch.equal(same.model.layer.weight, other.model.layer.weight)


@pytest.mark.slow
def test_another_number_of_processes_is_named(tmp_path, capsys):
    toy_runner(tmp_path, train_cfg__max_epochs=1).train()
    values = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    assert values['step']['world_size'] == 1
    values['step']['world_size'] = 4
    torch.save(values, tmp_path / 'x_1.pth')
    resume(tmp_path, tmp_path / 'x_1.pth')
    assert 'is of a run of 4 processes, and there are 1 now' in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize('way', ['link', 'moved'])
def test_the_work_dir_under_another_name(tmp_path, checkpoint, way):
    shutil.copytree(checkpoint.parent, tmp_path / 'run')
    (tmp_path / 'run' / 'last_checkpoint').write_text(str(tmp_path / 'run' / checkpoint.name))
    if way == 'link':
        (tmp_path / 'other').symlink_to(tmp_path / 'run')
    else:
        (tmp_path / 'run').rename(tmp_path / 'other')
    runner = toy_runner(tmp_path / 'other', resume=True)
    runner.train()
    assert runner.signal_hook.batches == [3, 4, 5, *range(6)]
    assert [path.name for path in (tmp_path / 'other').glob('*.pth')] == ['epoch_3.pth']
    assert Path((tmp_path / 'other' / 'last_checkpoint').read_text()).is_file()


def test_resume_without_a_checkpoint_begins(tmp_path):
    runner = toy_runner(tmp_path, resume=True, train_cfg__max_epochs=1)
    runner.train()
    assert runner.iter == 6
