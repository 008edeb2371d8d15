"""Several processes without CUDA, as each launcher starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from unmix.engine import launch

ROOT = Path(__file__).resolve().parents[1]

# One process of two. It does the same for each launcher in turn, since most of the time goes into importing torch.
WORKER = """
import os
import sys
import torch
from mmengine.config import Config
from mmengine.dist import all_gather
from mmengine.model import BaseModel
from mmengine.runner import Runner
from unmix.engine.launch import init_cpu_distributed


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, mode='tensor'):
        return {'loss_base': ((self.weight - inputs.mean(0)) ** 2).sum()}


def train(launcher):
    env_cfg = dict(dist_cfg=dict(timeout=60))
    cfg = Config(dict(launcher=launcher, sync_bn='torch', find_unused_parameters=True, env_cfg=env_cfg))
    init_cpu_distributed(cfg)
    assert 'sync_bn' not in cfg
    runner = Runner(
        model=Line(),
        work_dir=os.path.join(sys.argv[1], launcher),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.tensor([i, 1.0])) for i in range(4)],
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=1,
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.25)),
        launcher=launcher,
        cfg=cfg,
        experiment_name=launcher,
        log_level='ERROR',
    )
    runner.train()
    weights = all_gather(runner.model.module.weight.detach())
    print(launcher, os.environ['MASTER_ADDR'], *[weight.tolist() for weight in weights])
    torch.distributed.destroy_process_group()


for argument in sys.argv[2:]:
    launcher, port = argument.split(':')
    os.environ['MASTER_PORT'] = port
    if launcher != 'pytorch':
        os.environ.pop('MASTER_ADDR', None)
    train(launcher)
"""

# launcher: (what all processes have in common, what is each one's rank, and the address that follows)
LAUNCHERS = {
    'pytorch': ({'MASTER_ADDR': '127.0.0.1', 'WORLD_SIZE': '2'}, ('RANK', 'LOCAL_RANK'), '127.0.0.1'),
    'slurm': (
        {'SLURM_NTASKS': '2', 'SLURM_NODELIST': 'n[1-2]', 'SLURM_NNODES': '2'},
        ('SLURM_PROCID', 'SLURM_LOCALID'),
        'localhost',
    ),
    'mpi': (
        {'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_COMM_WORLD_LOCAL_SIZE': '2'},
        ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK'),
        '127.0.0.1',
    ),
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


@pytest.fixture(scope='module')
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What each of the two processes prints."""
    folder = tmp_path_factory.mktemp('two_processes')
    (folder / 'worker.py').write_text(WORKER)
    scontrol = folder / 'scontrol'  # Slurm's own tool knows the names of the machines
    scontrol.write_text('#!/bin/sh\n[ "$*" = "show hostnames n[1-2]" ] && printf "localhost\\nn2\\n"\n')
    scontrol.chmod(0o755)
    env = {key: value for key, value in os.environ.items() if key not in ('RANK', 'LOCAL_RANK', 'MASTER_ADDR')}
    env |= {'PATH': f'{folder}:{env["PATH"]}', 'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''}
    env |= {'OMP_NUM_THREADS': '1'} | {
        key: value for common, _, _ in LAUNCHERS.values() for key, value in common.items()
    }
    ranks = [name for _, names, _ in LAUNCHERS.values() for name in names]
    command = [sys.executable, folder / 'worker.py', folder, *(f'{name}:{free_port()}' for name in LAUNCHERS)]
    processes = [
        subprocess.Popen(
            command,
            env=env | dict.fromkeys(ranks, str(rank)),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    results = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    return [out for out, _ in results]


@pytest.mark.parametrize('launcher', LAUNCHERS)
@pytest.mark.ranks
def test_two_processes_train_on_the_cpu(launcher: str, printed: list[str]):
    """Data 0 1, then 2 3; lr 1/4, d/dw (w - x)^2 = 2 (w - x): w = 1/4, then 1/4 + (5/2 - 1/4) / 2 = 11/8."""
    for out in printed:
        assert f'{launcher} {LAUNCHERS[launcher][2]} [1.375, 0.75] [1.375, 0.75]' in out.splitlines()


def test_a_launcher_that_did_not_start_this_process_is_named(monkeypatch: pytest.MonkeyPatch):
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"launcher='pytorch'.*RANK, WORLD_SIZE, LOCAL_RANK are not set"):
        launch.init_cpu_distributed(Config(dict(launcher='pytorch')))


def test_an_accelerator_is_left_to_mmengine(monkeypatch: pytest.MonkeyPatch):
    """But for the environment: MMEngine indexes LOCAL_RANK, which is not among the variables of mpirun."""
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, 'restored after the test')
    monkeypatch.delenv('MASTER_ADDR')
    for name, value in {'RANK': '5', 'SIZE': '8', 'LOCAL_RANK': '1', 'LOCAL_SIZE': '8'}.items():
        monkeypatch.setenv(f'OMPI_COMM_WORLD_{name}', value)
    cfg = Config(dict(launcher='mpi', sync_bn='torch'))
    launch.init_cpu_distributed(cfg)
    assert [os.environ[name] for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')] == ['5', '8', '1']
    assert os.environ['MASTER_ADDR'] == '127.0.0.1'
    assert cfg.to_dict() == dict(launcher='mpi', sync_bn='torch')
    assert not torch.distributed.is_initialized()
    monkeypatch.delenv('MASTER_ADDR')
    monkeypatch.setenv('OMPI_COMM_WORLD_LOCAL_SIZE', '4')
    with pytest.raises(ValueError, match='on several machines: set MASTER_ADDR'):
        launch.init_cpu_distributed(cfg)


def test_one_process_needs_no_set_up():
    cfg = Config(dict(launcher='none', sync_bn='torch'))
    launch.init_cpu_distributed(cfg)
    assert cfg.to_dict() == dict(launcher='none', sync_bn='torch')
    assert not torch.distributed.is_initialized()


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A task of Slurm, number 3 of its machine; the environment is restored."""
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, 'restored after the test')
    for name, value in {'PROCID': '11', 'NTASKS': '16', 'LOCALID': '3', 'NNODES': '1', 'JOB_ID': '12345'}.items():
        monkeypatch.setenv(f'SLURM_{name}', value)
    monkeypatch.delenv('MASTER_PORT')
    monkeypatch.delenv('SLURM_STEP_ID', raising=False)
    return monkeypatch


def test_each_job_and_step_of_slurm_has_its_port(slurm: pytest.MonkeyPatch):
    """The same on all tasks, below the system's own ports; a port that is given is kept."""
    ports = []
    for job, step in (('12345', '0'), ('12346', '0'), ('12345', '1'), ('99999999', '0')):
        slurm.delenv('MASTER_PORT', raising=False)
        slurm.setenv('SLURM_JOB_ID', job)
        slurm.setenv('SLURM_STEP_ID', step)
        launch.set_rendezvous('slurm', None)
        ports.append(int(os.environ['MASTER_PORT']))
    assert len(set(ports)) == 4
    assert all(10_000 <= port < 30_000 for port in ports)
    launch.set_rendezvous('slurm', 1234)
    assert os.environ['MASTER_PORT'] == '1234'


@pytest.mark.parametrize(('visible', 'expected'), [(1, '0'), (8, '3'), (0, '3')])
def test_a_task_that_sees_one_gpu_calls_it_0(slurm: pytest.MonkeyPatch, visible: int, expected: str):
    slurm.setattr(torch.cuda, 'device_count', lambda: visible)
    launch.set_rendezvous('slurm', None)
    assert os.environ['LOCAL_RANK'] == os.environ['SLURM_LOCALID'] == expected
    assert os.environ['RANK'] == '11'
