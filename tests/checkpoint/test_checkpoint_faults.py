"""Two hundred injected faults: no good checkpoint is lost, and no damaged one is loaded in silence."""

import errno
import os
import resource
import shutil
import signal
import stat
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine import runner as mmengine_runner
from mmengine.runner import CheckpointLoader

from unmix import compat
from unmix.checkpoint.identity import name_latest
from unmix.checkpoint.latest import find_latest_checkpoint
from unmix.checkpoint.save import save_checkpoint

RNG = np.random.default_rng(0)
COUNTS = {'truncated': 70, 'bit flipped': 70, 'no space': 30, 'killed': 30}


def state(number: int, size: int = 300) -> dict:
    weights = torch.randn(size, generator=torch.Generator().manual_seed(number))
    return dict(state_dict=dict(w=weights), meta=dict(iter=number), optimizer=dict(lr=0.1))


def save(work_dir: Path, number: int, size: int = 300) -> Path:
    path = work_dir / f'iter_{number}.pth'
    save_checkpoint(state(number, size), str(path))
    name_latest(str(work_dir), str(path))
    return path


def load(path: str | Path) -> dict:
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu', logger='silent')


def recover(work_dir: Path, size: int = 300) -> int:
    """What ``--resume`` loads: it must be what was saved; return its number."""
    path = find_latest_checkpoint(str(work_dir))
    assert path is not None
    loaded = load(path)
    number = loaded['meta']['iter']
    assert Path(path).name == f'iter_{number}.pth'
    assert torch.equal(loaded['state_dict']['w'], state(number, size)['state_dict']['w'])
    return number


def damage_newest(work_dir: Path, newest: bytes, kind: str) -> None:
    at = int(RNG.integers(len(newest)))
    if kind == 'truncated':
        damaged = newest[:at]
    else:
        damaged = bytearray(newest)
        damaged[at] ^= 1 << int(RNG.integers(8))
    (work_dir / 'iter_2.pth').write_bytes(damaged)
    with pytest.raises(ValueError, match=r'iter_2\.pth'):
        load(work_dir / 'iter_2.pth')
    assert recover(work_dir) == 1


def run_out_of_space(work_dir: Path, newest: bytes) -> None:
    """The limit of file sizes hits a new checkpoint, and one that is to replace a file."""
    number = int(RNG.choice([2, 3]))
    before = {path: path.read_bytes() for path in work_dir.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(RNG.integers(len(newest))), limits[1]))
    try:
        with pytest.raises(OSError, match=rf'iter_{number}\.pth could not be written: File too large.*Make room'):
            save(work_dir, number)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in work_dir.iterdir()} == before
    assert recover(work_dir) == 2


def kill_while_saving(work_dir: Path) -> None:
    """A process saves one checkpoint after the other, and says when each is done; it is killed at some moment."""
    size, (reader, writer) = 100_000, os.pipe()
    save(work_dir, 1, size)
    pid = os.fork()
    if pid == 0:
        try:
            for number in range(2, 256):
                save(work_dir, number, size)
                os.write(writer, bytes([number]))
                (work_dir / f'iter_{number - 1}.pth').unlink()
        finally:
            os._exit(0)
    os.close(writer)
    done = os.read(reader, 1)  # it is at work
    time.sleep(float(RNG.uniform(0, 0.03)))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    done += os.read(reader, 256)
    os.close(reader)
    assert recover(work_dir, size) in (done[-1], done[-1] + 1)


def test_mmengine_saves_and_finds_by_these_functions():
    for function in (compat.save_checkpoint, compat.find_latest_checkpoint):
        for module in (mmengine_runner, mmengine_runner.runner, mmengine_runner.checkpoint):
            assert getattr(module, function.__name__) is function


@pytest.mark.slow
def test_two_hundred_faults(tmp_path: Path, capsys: pytest.CaptureFixture):
    save(tmp_path, 1)
    newest = save(tmp_path, 2).read_bytes()
    for kind in ('truncated', 'bit flipped'):
        for _ in range(COUNTS[kind]):
            damage_newest(tmp_path, newest, kind)
    (tmp_path / 'iter_2.pth').write_bytes(newest)
    assert recover(tmp_path) == 2
    for _ in range(COUNTS['no space']):
        run_out_of_space(tmp_path, newest)
    for number in range(COUNTS['killed']):
        (folder := tmp_path / f'killed_{number}').mkdir()
        kill_while_saving(folder)
    with capsys.disabled():
        print(f'\n{sum(COUNTS.values())} faults {COUNTS}: 0 checkpoints lost, 0 damaged ones loaded')


@pytest.mark.parametrize('name', ['last_checkpoint torn', 'last_checkpoint missing', 'last_checkpoint of binary'])
def test_without_a_name_the_newest_whole_one_is_found(name: str, tmp_path: Path):
    save(tmp_path, 1)
    save(tmp_path, 12)
    save_checkpoint(state(3), str(tmp_path / 'best_accuracy_3.pth'))
    latest = tmp_path / 'last_checkpoint'
    if 'missing' in name:
        latest.unlink()
    else:
        latest.write_bytes(b'' if 'torn' in name else b'\xff\xfe')
    assert recover(tmp_path) == 12


@pytest.mark.parametrize('dates', ['equal', 'misleading'])
def test_iterations_count_where_dates_say_nothing(dates: str, tmp_path: Path):
    """As in a copied folder; and by their names, epoch_2 would be before iter_12, and 9 after 12."""
    for number, (iteration, name) in enumerate({9: 'iter_9', 20: 'epoch_2', 12: 'interrupted_iter_12'}.items()):
        save_checkpoint(state(iteration), str(tmp_path / f'{name}.pth'))
        os.utime(tmp_path / f'{name}.pth', (0, 10 if dates == 'equal' else 10 + number))
    assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_2.pth')
    (tmp_path / 'epoch_2.pth').write_bytes((tmp_path / 'epoch_2.pth').read_bytes()[:-100])
    assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / 'interrupted_iter_12.pth')


def test_a_copied_directory_goes_on_from_its_own_files(tmp_path: Path):
    (tmp_path / 'old').mkdir()
    save(tmp_path / 'old', 1)
    shutil.copytree(tmp_path / 'old', tmp_path / 'new')
    assert find_latest_checkpoint(str(tmp_path / 'new')) == str(tmp_path / 'new' / 'iter_1.pth')
    elsewhere = tmp_path / 'elsewhere' / 'iter_1.pth'  # as with default_hooks.checkpoint.out_dir
    elsewhere.parent.mkdir()
    save_checkpoint(state(1), str(elsewhere))
    name_latest(str(tmp_path / 'new'), str(elsewhere))
    assert find_latest_checkpoint(str(tmp_path / 'new')) == str(elsewhere)


def test_an_empty_directory_has_none(tmp_path: Path):
    assert find_latest_checkpoint(str(tmp_path)) is None
    assert find_latest_checkpoint(str(tmp_path / 'nowhere')) is None


def test_checkpoints_of_the_current_directory_are_not_those_of_the_work_dir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save_checkpoint(state(1), str(tmp_path / 'iter_1.pth'))
    monkeypatch.chdir(tmp_path)
    assert find_latest_checkpoint(str(tmp_path / 'empty')) is None
    (tmp_path / 'empty').mkdir()
    assert find_latest_checkpoint(str(tmp_path / 'empty')) is None


def test_a_directory_of_damaged_ones_does_not_start_anew_in_silence(tmp_path: Path):
    save(tmp_path, 1).write_bytes(b'')
    with pytest.raises(ValueError, match=r'no checkpoint to resume: .*iter_1\.pth'):
        find_latest_checkpoint(str(tmp_path))


def test_a_moved_directory_is_found_and_its_file_loads_without_any_other(tmp_path: Path, caplog):
    (tmp_path / 'old').mkdir()
    save(tmp_path / 'old', 1)
    save(tmp_path / 'old', 2)
    os.utime(tmp_path / 'old' / 'iter_2.pth', (0, 0))  # not the newest by date
    (tmp_path / 'old').rename(tmp_path / 'new')
    assert recover(tmp_path / 'new') == 2
    (tmp_path / 'new' / 'iter_2.pth').rename(tmp_path / 'other.pth')
    assert load(tmp_path / 'other.pth')['meta']['iter'] == 2


def test_files_without_a_seal_are_found_by_the_checksums_of_their_archive(tmp_path: Path):
    torch.save(state(1), tmp_path / 'iter_1.pth')
    torch.save(state(2), tmp_path / 'iter_2.pth')
    os.utime(tmp_path / 'iter_1.pth', (0, 0))
    assert recover(tmp_path) == 2
    data = bytearray((tmp_path / 'iter_2.pth').read_bytes())
    data[data.index(state(2)['state_dict']['w'].numpy().tobytes())] ^= 1
    (tmp_path / 'iter_2.pth').write_bytes(data)
    assert recover(tmp_path) == 1


def test_a_file_system_that_cannot_flush_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(descriptor)

    monkeypatch.setattr(os, 'fsync', fsync)
    save(tmp_path, 1)
    assert recover(tmp_path) == 1


def test_other_programs_read_a_sealed_file(tmp_path: Path):
    path = save(tmp_path, 1)
    for mmap in (False, True):
        assert torch.equal(torch.load(path, mmap=mmap)['state_dict']['w'], state(1)['state_dict']['w'])
