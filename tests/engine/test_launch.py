"""Where a training begins: by its command line, or after a restart by torchrun."""

import json
from pathlib import Path

import pytest
import torch
from engine_toy import toy_runner

from unmix.engine import launch
from unmix.engine.launch import NOTE, choose_start


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch):
    """Make this process a worker of torchrun; the function that is returned gives it another agent."""

    def become(name: str) -> None:
        monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'unmix')
        monkeypatch.setattr(launch, '_agent', lambda: name)

    return become


def start(work_dir: Path, resume: str | None = None, stop_at: int | None = None, **changes):
    """Start as ``tools/train.py`` does, with a checkpoint every 3 iterations; return the iteration where it began."""
    runner = toy_runner(work_dir, default_hooks__checkpoint=dict(by_epoch=False, interval=3), **changes)
    began = []

    def before_train_iter(runner, **_):
        began.append(runner.iter)
        if runner.iter == stop_at:
            raise ZeroDivisionError

    runner.signal_hook.before_train_iter = before_train_iter
    choose_start(runner, resume)
    try:
        runner.train()
    except ZeroDivisionError:
        assert stop_at is not None
    return began[0]


@pytest.mark.slow
def test_a_restart_goes_on_and_a_new_job_begins(tmp_path: Path, agent):
    agent('a')
    assert start(tmp_path, stop_at=8) == 0
    assert start(tmp_path, stop_at=11) == 6
    agent('b')
    assert start(tmp_path, stop_at=2) == 0  # another job in the same work directory
    assert start(tmp_path, stop_at=8) == 0  # restarted before its first checkpoint: not from that of the other job
    assert start(tmp_path) == 6


@pytest.mark.slow
def test_a_restarted_job_with_a_checkpoint_of_another_run_on_its_command_line(tmp_path: Path, agent):
    start(tmp_path / 'a', stop_at=8)
    agent('a')
    path = str(tmp_path / 'a' / 'iter_3.pth')
    assert start(tmp_path / 'b', resume=path, stop_at=5) == 3
    assert start(tmp_path / 'b', resume=path, stop_at=8) == 3
    assert start(tmp_path / 'b', resume=path) == 6


@pytest.mark.slow
def test_a_run_without_torchrun_in_between(tmp_path: Path, agent, monkeypatch):
    agent('a')
    start(tmp_path, stop_at=8)
    monkeypatch.delenv('TORCHELASTIC_RUN_ID')
    start(tmp_path, stop_at=8, randomness__seed=1)
    agent('a')
    assert start(tmp_path, stop_at=1) == 0


@pytest.mark.slow
@pytest.mark.parametrize('content', ['', '{}', '{"agents": ["a"], "last_checkpoint": 3}', '[1]'])
def test_a_note_of_an_old_version(tmp_path: Path, agent, content: str):
    agent('a')
    start(tmp_path, stop_at=8)
    (tmp_path / NOTE).write_text(content)
    assert start(tmp_path, stop_at=1) == 0
    assert json.loads((tmp_path / NOTE).read_text())['agents'] == ['a']


def test_the_agent_is_told_by_its_start_not_by_its_number(monkeypatch):
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'unmix')
    own = launch._agent()
    assert own == launch._agent()
    real = Path.read_text

    def later(path: Path, *args, **kwargs) -> str:
        text = real(path, *args, **kwargs)
        if path.name != 'stat':
            return text
        head, _, tail = text.rpartition(')')
        fields = tail.split()
        fields[19] = str(int(fields[19]) + 1)
        return f'{head}) {" ".join(fields)}'

    monkeypatch.setattr(Path, 'read_text', later)
    assert launch._agent() != own


@pytest.mark.slow
def test_weights_of_the_config_are_loaded_where_there_is_no_checkpoint(tmp_path: Path):
    """--resume of a run that was killed before its first checkpoint begins as the run began."""
    weights = {'state_dict': {'layer.weight': torch.full((3, 6), 7.0), 'layer.bias': torch.zeros(3)}}
    torch.save(weights, tmp_path / 'weights.pth')
    for resume in (None, 'auto'):
        runner = toy_runner(tmp_path / str(resume), load_from=str(tmp_path / 'weights.pth'))
        values = []
        runner.signal_hook.before_train = lambda runner, values=values: values.append(
            float(runner.model.layer.weight[0, 0])
        )
        choose_start(runner, resume)
        runner.train()
        assert values == [7.0]
    assert (
        start(tmp_path / 'auto', resume='auto', train_cfg__max_epochs=4, load_from=str(tmp_path / 'weights.pth')) == 18
    )
