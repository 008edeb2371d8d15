"""Rank 1 of two gets SIGKILL in the middle of an epoch, and torchrun starts all again on two machines."""

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from unmix.testing.ranks import run_ranks

pytestmark = [pytest.mark.ranks, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[1]
# 9 batches an epoch on each of two ranks; the last checkpoint before the kill is of iteration 12, in the second epoch.
CONFIG = """
_base_ = 'unmix::quickstart/unmix-moco_digits.py'
model = dict(backbone=dict(width=4), neck=dict(in_dim=16, hidden_dim=32, out_dim=16), head=dict(dim=16))
train_dataloader = dict(batch_size=64)
train_cfg = dict(max_epochs=2)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=4))
val_cfg = val_dataloader = val_evaluator = test_cfg = test_dataloader = test_evaluator = None
custom_hooks = [dict(type='LoadGuardHook')]
"""
KILL = """
custom_imports = dict(imports=['elastic_faults'])
custom_hooks = [dict(type='LoadGuardHook'), dict(type='KillOnceHook', iteration=14)]
"""


def _train(rank: int, arguments: list[str]) -> None:
    """Run tools/train.py in a process of ``run_ranks``, which stands for torchrun."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1')
    sys.argv = ['train.py', *arguments, '--launcher', 'pytorch']
    runpy.run_path(str(ROOT / 'tools' / 'train.py'), run_name='__main__')


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a name that a careless script would split, and the two configs in it."""
    folder = tmp_path_factory.mktemp('elastic') / "two ranks' runs"
    folder.mkdir()
    (folder / 'whole.py').write_text(CONFIG)
    (folder / 'killed.py').write_text(CONFIG + KILL)
    return folder


@pytest.fixture(scope='module')
def whole(folder: Path) -> dict[str, Any]:
    """The last checkpoint of the run that nothing interrupts, on one machine."""
    run_ranks(_train, 2, folder, [str(folder / 'whole.py'), '--work-dir', str(folder / 'whole')])
    return torch.load(folder / 'whole' / 'iter_18.pth', weights_only=False)


def _start(folder: Path, work_dir: Path, processes: int, **environment: str) -> subprocess.Popen:
    env = {key: value for key, value in os.environ.items() if not key.startswith(('TORCHELASTIC', 'PET_'))}
    env |= dict(PYTHON=sys.executable, PYTHONPATH=str(ROOT / 'tests'), OMP_NUM_THREADS='1', MAX_RESTARTS='1')
    env |= dict(CUDA_VISIBLE_DEVICES='') | environment
    command = [ROOT / 'tools' / 'dist_train.sh', folder / 'killed.py', str(processes), '--work-dir', work_dir]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def test_killed_run_restarts_and_equals_the_uninterrupted_one(folder: Path, whole: dict[str, Any]):
    machines = 2
    work_dir = folder / f'{machines} machines'
    work_dir.mkdir()
    # What another run has left here must not be gone on with; rank 0 says below where it went on.
    (work_dir / 'last_checkpoint').write_text(str(folder / 'whole' / 'iter_18.pth'))
    nodes = dict(NNODES=str(machines), PORT=str(_free_port()))
    agents = [_start(folder, work_dir, 2 // machines, NODE_RANK=str(i), **nodes) for i in range(machines)]
    outputs = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0] * machines, '\n'.join(outputs)
    assert (work_dir / 'killed').read_text() == '0'
    assert 'resumed epoch: 1, iter: 12' in ''.join(outputs)
    killed = torch.load(work_dir / 'iter_18.pth', weights_only=False)
    for key in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_same(killed[key], whole[key], key)


def assert_same(a: Any, b: Any, path: str) -> None:
    """Compare containers of tensors bit for bit."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict | list | tuple):
        assert len(a) == len(b), path
        for key in a if isinstance(a, dict) else range(len(a)):
            assert_same(a[key], b[key], f'{path}.{key}')
    else:
        assert a == b, path
