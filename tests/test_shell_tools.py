"""The shell tools hand every argument on unchanged. A stub that prints its arguments stands in for python and srun."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / 'tools'
SPACED = ['--cfg-options', 'model.head.temperature=0.2', 'work_dir=a b', '', '*', '$HOME']


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """An executable that prints PYTHONPATH, then one argument a line."""
    for name in ('stub', 'srun'):
        path = tmp_path / name
        asked = '[[ $1 != */cpus_per_task.py ]] || { echo "${#@}"; exit; }'  # answers with the number of its arguments
        path.write_text(f'#!/usr/bin/env bash\n{asked}\nprintf "%s\\n" "$PYTHONPATH" "$@"\n')
        path.chmod(0o755)
    return tmp_path / 'stub'


def run(script: Path, args: list[str], stub: Path, **env: str) -> tuple[str, list[str]]:
    """Run a script from another directory; returns PYTHONPATH and the arguments the stub was called with."""
    nodes = ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'PORT', 'JOB_ID', 'MAX_RESTARTS')
    known = (*nodes, 'GPUS', 'GPUS_PER_NODE', 'CPUS_PER_TASK', 'SRUN_ARGS', 'SIGNAL')
    clean = {key: value for key, value in os.environ.items() if key not in (*known, 'PYTHONPATH')}
    environment = clean | {'PYTHON': str(stub), 'PATH': f'{stub.parent}:{os.environ["PATH"]}'} | env
    out = subprocess.run(
        [script, *args], cwd=stub.parent, env=environment, check=True, capture_output=True, text=True
    ).stdout
    pythonpath, *seen = out[:-1].split('\n')
    return pythonpath, seen


@pytest.mark.parametrize(
    ('script', 'args'),
    [
        ('dist_train.sh', ['config.py']),
        ('dist_train.sh', ['config.py', '--work-dir', 'x']),
        ('dist_train.sh', ['config.py', '0']),
        ('dist_test.sh', ['config.py', 'checkpoint.pth']),
        ('dist_test.sh', ['config.py', '2', '--work-dir']),
        ('slurm_train.sh', ['partition', 'job']),
        ('slurm_train.sh', ['partition', 'job', '--work-dir', 'config.py']),
        ('slurm_test.sh', ['partition', 'job', 'config.py']),
        ('slurm_test.sh', ['partition', 'job', 'config.py', '--work-dir']),
    ],
)
def test_missing_arguments_print_usage(script: str, args: list[str], stub: Path):
    done = subprocess.run(
        [TOOLS / script, *args], capture_output=True, text=True, env=os.environ | {'PYTHON': str(stub)}
    )
    assert done.returncode == 2
    assert done.stdout == ''
    assert done.stderr.startswith(f'Usage: tools/{script} ')


@pytest.mark.parametrize(('script', 'checkpoint'), [('train', []), ('test', ['last epoch.pth'])])
def test_dist_tools_call_torchrun(script: str, checkpoint: list[str], stub: Path):
    pythonpath, seen = run(TOOLS / f'dist_{script}.sh', ['my config.py', *checkpoint, '2', *SPACED], stub)
    assert seen[:2] == ['-m', 'torch.distributed.run']
    restarts = ['--max-restarts=0'] if script == 'train' else []
    tool = f'{TOOLS}/{script}.py'
    assert seen[2 : seen.index(tool)] == ['--standalone', *restarts, '--nproc-per-node=2']
    assert seen[seen.index(tool) :] == [tool, 'my config.py', *checkpoint, '--launcher', 'pytorch', *SPACED]
    assert pythonpath == str(ROOT)


@pytest.mark.parametrize(('script', 'checkpoint'), [('train', []), ('test', ['last epoch.pth'])])
def test_dist_tools_take_the_nodes_from_the_environment(script: str, checkpoint: list[str], stub: Path):
    nodes = {'NNODES': '3', 'MASTER_ADDR': 'first host', 'PORT': '1234', 'JOB_ID': 'a job', 'PYTHONPATH': '/other'}
    for rank, is_host in (('0', 1), ('1', 0)):
        args = ['config.py', *checkpoint, '8']
        pythonpath, seen = run(TOOLS / f'dist_{script}.sh', args, stub, NODE_RANK=rank, MAX_RESTARTS='5', **nodes)
        assert seen[2:7] == [
            '--nnodes=3',
            '--rdzv-backend=c10d',
            '--rdzv-endpoint=first host:1234',
            '--rdzv-id=a job',
            f'--rdzv-conf=is_host={is_host},read_timeout=600',
        ]
        assert ('--max-restarts=5' in seen) == (script == 'train')
        assert pythonpath == f'{ROOT}:/other'


def test_dist_train_works_through_a_link_to_the_tools(stub: Path):
    """An editable install links unmix/.mim/tools to tools."""
    (stub.parent / 'tools').symlink_to(TOOLS)
    pythonpath, seen = run(stub.parent / 'tools' / 'dist_train.sh', ['config.py', '1'], stub)
    assert f'{TOOLS}/train.py' in seen
    assert pythonpath == str(ROOT)


@pytest.mark.parametrize(('script', 'checkpoint'), [('train', []), ('test', ['last epoch.pth'])])
def test_slurm_tools_call_srun(script: str, checkpoint: list[str], stub: Path):
    env = {'GPUS': '4', 'SRUN_ARGS': '--quotatype=auto  --exclude=node1'}
    args = ['gpu part', 'a job', 'my config.py', *checkpoint, *SPACED]
    _, seen = run(TOOLS / f'slurm_{script}.sh', args, stub, **env)
    assert seen == [
        '--partition=gpu part',
        '--job-name=a job',
        '--ntasks=4',
        '--ntasks-per-node=4',
        '--gpus-per-task=1',
        f'--cpus-per-task={2 + len(checkpoint) + 2 + len(SPACED)}',  # as the tool says, which gets all arguments
        '--kill-on-bad-exit=1',
        *(['--signal=USR1@120'] if script == 'train' else []),
        '--quotatype=auto',
        '--exclude=node1',
        str(stub),
        '-u',
        f'{TOOLS}/{script}.py',
        'my config.py',
        *checkpoint,
        '--launcher',
        'slurm',
        *SPACED,
    ]


def test_slurm_defaults_and_nodes(stub: Path):
    _, default = run(TOOLS / 'slurm_train.sh', ['p', 'j', 'c.py'], stub)
    assert default[2:5] == ['--ntasks=8', '--ntasks-per-node=8', '--gpus-per-task=1']
    env = {'GPUS': '16', 'GPUS_PER_NODE': '4', 'CPUS_PER_TASK': '12', 'SIGNAL': 'USR2@60'}
    _, many = run(TOOLS / 'slurm_train.sh', ['p', 'j', 'c.py'], stub, **env)
    assert many[2:6] == ['--ntasks=16', '--ntasks-per-node=4', '--gpus-per-task=1', '--cpus-per-task=12']
    assert many[7] == '--signal=USR2@60'


@pytest.mark.slow
def test_a_task_has_a_cpu_for_each_worker_and_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Of the loader that has the most; options count."""
    tool = str(TOOLS / 'misc' / 'cpus_per_task.py')
    options = [
        'train_dataloader.num_workers=3',
        'val_cfg.bank_dataloader.num_workers=7',
        'val_dataloader.num_workers=0',
    ]
    for more, expected in ((options, '8\n'), (['train_dataloader.num_workers=11'], '12\n')):
        arguments = ['unmix::quickstart/moco_digits.py', 'checkpoint.pth', '--launcher', 'slurm', '--resume']
        monkeypatch.setattr(sys, 'argv', [tool, *arguments, '--cfg-options', *more])
        runpy.run_path(tool, run_name='__main__')
        assert capsys.readouterr().out == expected
