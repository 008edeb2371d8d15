"""PIC's rows on disk in a whole run: resumed, with losses that are not finite, with a disk that is full."""

import copy
import resource

import pytest
import torch
from algorithms_under_test import ALGORITHMS
from mmengine.hooks import Hook
from test_checkpoint_hook import FullDisk, latest
from test_finite_loss_hook import Spoil, equal, spoilt_runner

HEAD = ALGORITHMS['pic-recent']['head']


@pytest.fixture(autouse=True)
def room_again():
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)


class Unspoilt(Hook):
    """In the place of :class:`Spoil`."""


def run(work_dir, rows_dir, hook=None, policy='stop', num_instances=30, train=True, **changes):
    head = dict(HEAD, rows_dir=rows_dir and str(rows_dir), num_instances=num_instances)
    runner = spoilt_runner(work_dir, hook or Unspoilt(), policy, 'pic-recent', model__head=head, **changes)
    if train:
        runner.train()
    return runner


def end(runner):
    """Everything that training has made, wherever the rows lie."""
    head = runner.model.head
    state = {key: value for key, value in runner.model.state_dict().items() if 'rows' not in key}
    state = {key: value for key, value in state.items() if not key.startswith(('head.recent.weight', 'head.recent.ve'))}
    return copy.deepcopy([state, *head.recent.dense(head.weight)])


def tables(directory):
    return {path.stem for path in directory.glob('*.rows')}


def digest(path):
    return bytes(torch.load(path, weights_only=False)['state_dict']['head.rows.digest'].tolist()).hex()


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one_and_writes_no_table_before_it_trains(tmp_path):
    rows, work_dir = tmp_path / 'rows', tmp_path / 'parts'
    keep = dict(default_hooks__checkpoint__max_keep_ckpts=1)
    whole = run(tmp_path / 'whole', None, epochs=4)
    run(work_dir, rows, epochs=1, param_scheduler=[dict(type='CosineLR', by_epoch=False, end=20)], **keep)
    first = digest(work_dir / 'epoch_1.pth')
    assert tables(rows) == {first}
    resumed = run(work_dir, rows, train=False, resume=True, epochs=4, **keep)
    seen = []
    look = Unspoilt()
    look.before_train_iter = lambda *_, **__: seen.append(tables(rows))
    resumed.register_hook(look)
    resumed.train()
    assert seen[0] == {first}
    assert [path.name for path in work_dir.glob('*.pth')] == ['epoch_4.pth']
    assert len(tables(rows)) == 2
    assert digest(work_dir / 'epoch_4.pth') in tables(rows) - seen[-5]
    assert equal(end(whole), end(resumed))


@pytest.mark.slow
def test_tables_stay_if_a_checkpoint_cannot_be_read(tmp_path):
    rows, work_dir = tmp_path / 'rows', tmp_path / 'run'
    work_dir.mkdir()
    (work_dir / 'foreign.pth').write_bytes(b'no checkpoint')
    run(work_dir, rows, epochs=3, default_hooks__checkpoint__max_keep_ckpts=1)
    assert len(tables(rows)) == 3
    log = next(work_dir.glob('*/*.log')).read_text()
    assert f'No table of head.rows_dir is removed: {work_dir}/foreign.pth is no checkpoint, or damaged' in log


@pytest.mark.slow
@pytest.mark.parametrize('policy', ['skip', 'rollback'])
def test_losses_that_are_not_finite_are_left_out_as_with_rows_in_memory(tmp_path, policy):
    """Three failures between two checkpoints: the captures have tables too, and all of them stay."""
    hook = dict(type='FiniteLossHook', policy=policy, max_failures=3)
    ends = []
    for rows in (None, tmp_path / 'rows'):
        runner = run(tmp_path / f'{rows is None}', rows, Spoil(at=(6, 7, 8)), policy, default_hooks__finite_loss=hook)
        ends.append(end(runner))
    assert equal(*ends)
    assert runner.message_hub.get_info('nonfinite_losses') == 3
    checkpoints = list((tmp_path / 'False').rglob('*.pth'))
    assert len(checkpoints) == 5
    assert tables(tmp_path / 'rows') == set(map(digest, checkpoints))


@pytest.mark.slow
def test_a_full_disk_is_sat_out_by_choice_and_said_by_name(tmp_path):
    """The table of 512 kB cannot be written in the second of three epochs."""
    rows = tmp_path / 'rows'
    options = dict(epochs=3, num_instances=8000, default_hooks__checkpoint__on_write_error='warn')
    run(tmp_path / 'run', rows, FullDisk({2}), **options)
    assert latest(tmp_path / 'run') == 'epoch_3.pth'
    assert not (tmp_path / 'run' / 'epoch_2.pth').exists()
    assert tables(rows) == {digest(tmp_path / 'run' / f'epoch_{epoch}.pth') for epoch in (1, 3)}
    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    assert f"head.rows_dir='{rows}' has no room for the rows of a checkpoint: File too large" in log
    assert {path.suffix for path in rows.iterdir()} == {'.rows'}
    with pytest.raises(OSError, match='has no room for the rows of a checkpoint: File too large'):
        run(tmp_path / 'stopped', rows, FullDisk({1}), num_instances=8000)
