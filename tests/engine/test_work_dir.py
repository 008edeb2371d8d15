"""Two trainings in one work directory; the lock of one that is killed."""

import os
import signal
from pathlib import Path

import pytest
from engine_toy import toy_runner
from mmengine.config import Config

from unmix.engine.work_dir import sole_use


def hold(work_dir: Path) -> int:
    """Start a process that uses the directory until it is killed; return its id."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with sole_use(work_dir):
            os.write(writer, b'x')
            signal.pause()
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return pid


@pytest.mark.slow
def test_a_second_training_is_refused_and_a_killed_one_forgotten(tmp_path: Path):
    runner = toy_runner(tmp_path)
    (tmp_path / '.epoch_1.1.pth').write_bytes(b'what the first one is about to rename')
    pid = hold(tmp_path)
    try:
        with pytest.raises(ValueError, match=f'is in use by process {pid} on .*another one by --work-dir'):
            runner.train()
        assert runner.iter == 0
        assert (tmp_path / '.epoch_1.1.pth').exists()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    runner.train()
    assert runner.iter == 18
    assert not (tmp_path / '.epoch_1.1.pth').exists()


@pytest.mark.slow
def test_only_a_training_replaces_the_config_of_another(tmp_path: Path):
    """An evaluation in the work dir of a training often has a config of the same name."""
    cfg = Config(dict(x=1))
    cfg.dump(tmp_path / 'mine.py')
    runner = toy_runner(tmp_path)
    runner.cfg = Config(runner.cfg.to_dict(), filename=str(tmp_path / 'mine.py'))
    runner.dump_config()
    assert Config.fromfile(tmp_path / 'mine.py').to_dict() == cfg.to_dict()
    runner.train()
    assert Config.fromfile(tmp_path / 'mine.py').train_cfg.max_epochs == 3


def test_a_file_system_without_locks_is_used_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def without(*args: object) -> None:
        raise OSError(95, 'Operation not supported')

    monkeypatch.setattr('unmix.engine.work_dir.fcntl.lockf', without)
    with sole_use(tmp_path):
        pass
