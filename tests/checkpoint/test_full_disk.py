"""A file system of its own that is really full, with not a byte left: checkpoints, logs, and what a training does."""

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

TESTS = Path(__file__).resolve().parents[1]
ROOMS = os.pathsep.join(str(TESTS / room) for room in ('', 'checkpoint', 'engine'))
MOUNT = ['unshare', '--map-root-user', '--mount', 'bash', '-c', 'mount -t tmpfs -o size=2m tmpfs "$0" && exec "$@"']


def fill(disk: Path, leave: int = 0) -> None:
    """Write a file until nothing fits, then take ``leave`` bytes from it."""
    ballast = disk / 'ballast'
    with open(ballast, 'wb', buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    os.truncate(ballast, ballast.stat().st_size - leave)


def saving(disk: Path) -> None:
    """Thirty checkpoints for which more or less space is missing; half of them are to replace a file."""
    from test_checkpoint_faults import recover, save

    rng = np.random.default_rng(0)
    save(disk, 1, 20_000)
    size = save(disk, 2, 20_000).stat().st_size
    before = {path: path.read_bytes() for path in disk.iterdir()}
    for number in range(30):
        fill(disk, int(rng.integers(size // 4096)) * 4096)
        with pytest.raises(OSError, match=r'could not be written: No space left on device\. It needs 0\.1 MiB'):
            save(disk, 2 + number % 2, 20_000)
        (disk / 'ballast').unlink()
        assert {path: path.read_bytes() for path in disk.iterdir()} == before
        assert recover(disk, 20_000) == 2
    for path in before:
        path.unlink()


def training(disk: Path) -> None:
    """The disk is full in the second of three epochs, of 200 iterations each, all of which are logged."""
    from engine_toy import toy_runner
    from mmengine.hooks import Hook

    class Full(Hook):
        def before_train_epoch(self, runner: Any) -> None:
            fill(disk) if runner.epoch == 1 else (disk / 'ballast').unlink(missing_ok=True)

    runner = toy_runner(
        disk,
        train_dataloader__dataset__size=800,
        default_hooks__checkpoint=dict(interval=1, on_write_error='warn'),
        default_hooks__logger__interval=1,
    )
    runner.register_hook(Full())
    runner.train()
    assert {path.name for path in disk.glob('*.pth')} == {'epoch_1.pth', 'epoch_3.pth'}
    assert (disk / 'last_checkpoint').read_text() == str(disk / 'epoch_3.pth')
    (scalars,) = disk.rglob('scalars.json')
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    steps = [line['step'] for line in lines]
    assert steps == sorted(set(steps))
    assert set(range(1, 601)) - set(steps) <= set(range(201, 401))


def rows(disk: Path) -> None:
    """PIC's table of 32 kB, on a disk with room for less, and on one without room for that of a checkpoint."""
    from unmix.models import PICHead

    def build() -> PICHead:
        return PICHead(1000, 4, num_recent=8, rows_dir=str(disk / 'rows'))

    fill(disk, leave=5 * 4096)
    with pytest.raises(OSError, match=r'has no room for its 1000 rows: No space left on device\. It needs 0\.0 GiB'):
        build()
    assert not list((disk / 'rows').iterdir())
    fill(disk, leave=11 * 4096)
    head = build()
    head.enter(torch.arange(8))
    with pytest.raises(OSError, match='has no room for the rows of a checkpoint: No space left on device'):
        head.state_dict()
    assert not list((disk / 'rows').iterdir())
    (disk / 'ballast').unlink()
    before = head.rows.tables.clone()
    saved = head.state_dict()
    (twin := build()).load_state_dict(saved)
    assert torch.equal(twin.rows.tables, before)


def test_on_a_full_disk(tmp_path: Path):
    if subprocess.run([*MOUNT, tmp_path, 'true'], capture_output=True, check=False).returncode != 0:
        pytest.skip('this system lets nobody mount a file system in a namespace of his own')
    tasks = '; '.join(f't.{task.__name__}(disk)' for task in (saving, training, rows))
    program = f'import test_full_disk as t; disk = t.Path({str(tmp_path)!r}); {tasks}'
    done = subprocess.run(
        [*MOUNT, tmp_path, sys.executable, '-c', program],
        env=os.environ | dict(PYTHONPATH=ROOMS, OMP_NUM_THREADS='1'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'epoch_2.pth could not be written: No space left on device' in done.stdout
    assert len(re.findall(r'Scalars cannot be written to .* \(No space left on device\)', done.stdout)) == 1
    assert 'Traceback' not in done.stdout
