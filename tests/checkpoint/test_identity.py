"""Every way by which a run could come to a checkpoint that is not its own, and the run's own way on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from engine_toy import toy_runner

from unmix.checkpoint.identity import Saved, read_saved, run_of
from unmix.checkpoint.latest import find_latest_checkpoint
from unmix.testing.ranks import run_ranks
from unmix.utils.run_files import NOTE, current_run


def train(work_dir: Path, epochs: int = 1, **changes):
    every = dict(default_hooks__checkpoint__interval=1, default_hooks__checkpoint__max_keep_ckpts=-1)
    runner = toy_runner(work_dir, train_cfg__max_epochs=epochs, **every | changes)
    runner.train()
    return runner


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def names(work_dir: Path) -> list[str]:
    return sorted(path.name for path in work_dir.glob('*.pth'))


def rewrite(path: Path, change) -> None:
    """Change the content of a checkpoint; the file has no seal then, as those of other programs."""
    checkpoint = torch.load(path, weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, path)


@pytest.mark.slow
def test_a_run_keeps_its_id_over_resumptions(tmp_path: Path):
    train(tmp_path, 1)
    train(tmp_path, 2, resume=True)
    train(tmp_path, 3, resume=True)
    runs = [read_saved(tmp_path / f'epoch_{epoch}.pth').run for epoch in (1, 2, 3)]
    assert [len(run) for run in runs] == [1, 2, 3]
    assert runs[2][:2] == runs[1]
    assert runs[1][:1] == runs[0]
    assert [iteration for _, iteration in runs[2]] == [0, 6, 12]
    assert current_run(tmp_path) == runs[2]
    other = tmp_path / 'other'
    train(other)
    assert read_saved(other / 'epoch_1.pth').run[0][0] != runs[0][0]


@pytest.mark.parametrize(('starts', 'iteration', 'own'), [
    ([['a', 0]], 0, True),
    ([['a', 0]], 10, True),
    ([['a', 0]], 11, False),  # an abandoned branch of the same run
    ([['a', 0], ['b', 10]], 15, True),
    ([['a', 0], ['b', 10]], 21, False),
    ([['a', 0], ['b', 10], ['c', 20]], 99, True),
    ([['a', 0], ['b', 10], ['c', 20], ['d', 30]], 31, False),  # of a later start, which is not this one
    ([['a', 0], ['x', 10]], 10, False),
    ([['x', 0]], 0, False),
])  # fmt: skip
def test_which_checkpoints_are_those_of_a_run(starts, iteration, own):
    assert Saved(Path('x'), starts, iteration, 0, True).belongs([['a', 0], ['b', 10], ['c', 20]]) == own


@pytest.mark.slow
def test_a_damaged_newest_one_does_not_lead_to_another_run(tmp_path: Path):
    train(tmp_path, 3)
    train(tmp_path, 1, randomness__seed=1)
    damage(tmp_path / 'epoch_1.pth')
    with pytest.raises(
        ValueError, match=r'epoch_1\.pth.* is damaged.*epoch_3\.pth\) are of another run .*--resume PATH'
    ):
        find_latest_checkpoint(str(tmp_path))
    train(tmp_path, 4, resume=True, load_from=str(tmp_path / 'epoch_3.pth'))  # by its path it is resumed
    assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_4.pth')


def killed(work_dir: Path, **changes) -> None:
    """Begin a run that ends before its first checkpoint."""
    runner = toy_runner(work_dir, **changes)
    runner.signal_hook.after_train_iter = lambda *args, **kwargs: 1 / 0
    with pytest.raises(ZeroDivisionError):
        runner.train()


@pytest.mark.slow
def test_a_run_that_saved_nothing_does_not_lead_to_the_one_before(tmp_path: Path, capsys):
    train(tmp_path, 2)
    before = (tmp_path / 'epoch_2.pth').read_bytes()
    killed(tmp_path)
    warning = ' '.join(capsys.readouterr().out.split())
    assert 'holds checkpoints that are not of this run: epoch_1.pth, epoch_2.pth. This run begins anew' in warning
    assert f'go on with such a run by --resume {tmp_path}/epoch_2.pth, or give another --work-dir' in warning
    assert not (tmp_path / 'last_checkpoint').exists()
    assert (tmp_path / 'epoch_2.pth').read_bytes() == before
    with pytest.raises(ValueError, match=r'epoch_1\.pth .* are of another run than the one'):
        find_latest_checkpoint(str(tmp_path))
    train(tmp_path, 3, resume=True, load_from=str(tmp_path / 'epoch_2.pth'))  # the advice
    assert read_saved(find_latest_checkpoint(str(tmp_path))).run[0] == read_saved(tmp_path / 'epoch_1.pth').run[0]


@pytest.mark.slow
def test_a_used_work_dir_is_said_once_and_a_resumption_is_silent(tmp_path: Path, capsys):
    train(tmp_path, 1)
    assert 'not of this run' not in capsys.readouterr().out
    train(tmp_path, 2, resume=True)
    assert 'not of this run' not in capsys.readouterr().out
    train(tmp_path, 2)
    assert capsys.readouterr().out.count('not of this run') == 1


@pytest.mark.slow
def test_an_abandoned_branch_is_not_returned_to(tmp_path: Path):
    """After epoch 3 the run is resumed from epoch 1; epochs 2 and 3 of before are no longer its own."""
    train(tmp_path, 3)
    resume = dict(resume=True, load_from=str(tmp_path / 'epoch_1.pth'))
    killed(tmp_path, **resume)
    assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_1.pth')
    damage(tmp_path / 'epoch_1.pth')
    with pytest.raises(ValueError, match='are of another run'):
        find_latest_checkpoint(str(tmp_path))


@pytest.mark.slow
def test_a_run_from_elsewhere_that_saved_nothing_goes_on_from_there(tmp_path: Path):
    train(tmp_path / 'a', 2)
    train(tmp_path / 'b', 2)
    source = tmp_path / 'a' / 'epoch_2.pth'
    killed(tmp_path / 'b', resume=True, load_from=str(source))
    assert find_latest_checkpoint(str(tmp_path / 'b')) == str(source)


@pytest.mark.slow
def test_plain_weights_are_no_checkpoint(tmp_path: Path):
    weights = {'state_dict': {'layer.weight': torch.zeros(3, 6)}}
    torch.save(weights, tmp_path / 'resnet_50.pth')
    torch.save(weights['state_dict'], tmp_path / 'bare_51.pth')
    torch.save(weights | {'meta': dict(iter=900, epoch=9)}, tmp_path / 'published_52.pth')
    assert find_latest_checkpoint(str(tmp_path)) is None
    train(tmp_path, 1)
    (tmp_path / 'last_checkpoint').unlink()
    assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_1.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'resnet_50.pth'))
    assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_1.pth')


@pytest.mark.slow
def test_two_runs_without_a_note_are_told_apart(tmp_path: Path):
    """As if only the checkpoints had been copied."""
    train(tmp_path, 3)
    train(tmp_path, 1, randomness__seed=1)
    (tmp_path / NOTE).unlink()
    assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_1.pth')
    damage(tmp_path / 'epoch_1.pth')
    assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_3.pth')  # the only run that is left
    train(tmp_path, 1, randomness__seed=2)
    for name in (NOTE, 'last_checkpoint'):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match='are of several runs'):
        find_latest_checkpoint(str(tmp_path))


@pytest.mark.parametrize('content', ['', '[]', '{"run": 3}', '\0'])
def test_a_note_that_is_none(tmp_path: Path, content: str):
    (tmp_path / NOTE).write_text(content)
    assert current_run(tmp_path) is None


def old(work_dir: Path) -> None:
    """Make the checkpoints of a work directory those of a version that had no ids."""
    (work_dir / NOTE).unlink()
    for path in work_dir.glob('*.pth'):
        rewrite(path, lambda checkpoint: (checkpoint['meta'].pop('run'), checkpoint.pop('data')))


@pytest.mark.slow
def test_checkpoints_of_old_versions_go_on(tmp_path: Path):
    train(tmp_path, 3)
    whole = torch.load(tmp_path / 'epoch_3.pth', weights_only=False)
    (tmp_path / 'epoch_3.pth').unlink()
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    old(tmp_path)
    killed(tmp_path, resume=True, train_cfg__max_epochs=3)  # a second resumption finds them too
    assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_2.pth')
    damage(tmp_path / 'epoch_2.pth')
    train(tmp_path, 3, resume=True)
    assert torch.equal(
        torch.load(tmp_path / 'epoch_3.pth', weights_only=False)['state_dict']['layer.weight'],
        whole['state_dict']['layer.weight'],
    )


@pytest.mark.slow
def test_old_checkpoints_of_two_seeds_are_of_two_runs(tmp_path: Path):
    train(tmp_path, 3)
    train(tmp_path, 1, randomness__seed=1)
    old(tmp_path)
    runner = toy_runner(tmp_path, resume=True, randomness__seed=1, train_cfg__max_epochs=1)
    assert run_of(dict(cfg=runner.cfg.pretty_text, seed=1))[0][0] != run_of(dict(cfg=runner.cfg.pretty_text, seed=0))
    killed(tmp_path, resume=True, randomness__seed=1)
    damage(tmp_path / 'epoch_1.pth')
    with pytest.raises(ValueError, match='are of another run'):
        find_latest_checkpoint(str(tmp_path))


@pytest.mark.slow
def test_only_checkpoints_of_the_run_are_removed(tmp_path: Path):
    """The names that a resumed checkpoint lists are those of another run in another work directory."""
    timed = dict(default_hooks__checkpoint__interval_minutes=0)
    runner = toy_runner(tmp_path / 'a', signal_at=8, default_hooks__checkpoint__interval=1, **timed)
    with pytest.raises(SystemExit):
        runner.train()
    source = tmp_path / 'a' / 'interrupted_iter_9.pth'
    assert names(tmp_path / 'a') == ['epoch_1.pth', source.name]
    train(tmp_path / 'b', 1)
    shutil.copy(tmp_path / 'b' / 'epoch_1.pth', tmp_path / 'b' / source.name)
    before = (tmp_path / 'b' / 'epoch_1.pth').read_bytes()
    (tmp_path / 'b' / 'epoch_2.pth').write_bytes(b'damaged')
    train(tmp_path / 'b', 3, resume=True, load_from=str(source), default_hooks__checkpoint__max_keep_ckpts=1)
    assert names(tmp_path / 'b') == ['epoch_1.pth', 'epoch_3.pth', source.name]
    assert (tmp_path / 'b' / 'epoch_1.pth').read_bytes() == before


@pytest.mark.slow
def test_a_signal_removes_only_what_its_run_saved(tmp_path: Path):
    for folder, at in (('a', 3), ('b', 3)):
        with pytest.raises(SystemExit):
            toy_runner(tmp_path / folder, signal_at=at).train()
    source = tmp_path / 'a' / 'interrupted_iter_4.pth'
    with pytest.raises(SystemExit):
        toy_runner(tmp_path / 'b', signal_at=8, resume=True, load_from=str(source)).train()
    assert names(tmp_path / 'b') == ['interrupted_iter_4.pth', 'interrupted_iter_9.pth']


@pytest.mark.slow
def test_a_shared_out_dir(tmp_path: Path, capsys):
    """Two work directories of one name share a folder for checkpoints."""
    out = dict(default_hooks__checkpoint__out_dir=str(tmp_path / 'ckpts'))
    train(tmp_path / 'a' / 'w', 2, **out)
    train(tmp_path / 'b' / 'w', 1, randomness__seed=1, **out)
    assert 'not of this run: epoch_1.pth, epoch_2.pth' in capsys.readouterr().out
    assert Path(find_latest_checkpoint(str(tmp_path / 'a' / 'w'))).name == 'epoch_2.pth'
    damage(tmp_path / 'ckpts' / 'w' / 'epoch_2.pth')
    with pytest.raises(ValueError, match=r'epoch_1\.pth\) are of another run'):
        find_latest_checkpoint(str(tmp_path / 'a' / 'w'))


def _two_ranks(rank: int, work_dir: Path) -> None:
    runner = train(work_dir)
    (work_dir / f'{rank}.json').write_text(json.dumps(runner.train_loop._history.run))


@pytest.mark.ranks
def test_ranks_share_the_id(tmp_path: Path):
    run_ranks(_two_ranks, 2, tmp_path, tmp_path)
    runs = [json.loads((tmp_path / f'{rank}.json').read_text()) for rank in (0, 1)]
    assert runs[0] == runs[1] == current_run(tmp_path)
