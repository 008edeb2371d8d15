"""Cases of ``check_device.py``: other programs of the project on the device, and collectives of one process."""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from device_cases import Case, Options, Outcome, judged
from measure import visible
from torch import distributed, nn
from torch.distributed import ReduceOp

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'unmix::quickstart/unmix-moco_digits.py'
REDUCED = torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8


def program_cases(options: Options) -> list[Case]:
    """Return the cases."""
    kinds = {'deterministic': True} if options.quick else {'deterministic': True, 'as by default': False}
    return [
        Case('golden', 'golden tests', partial(golden, options)),
        *(Case('resume', f'kill and resume, {kind}', partial(resume, options, value)) for kind, value in kinds.items()),
        Case('nccl', 'collectives of one process', partial(collectives, options)),
        Case('nccl', 'training of one process', partial(launched, options)),
    ]


def run(command: list[str], options: Options) -> subprocess.CompletedProcess[str]:
    """Run a Python program that sees this device."""
    environment = dict(os.environ) | visible(options.device)
    environment.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # which deterministic algorithms need
    if options.device == 'cpu':
        environment.setdefault('OMP_NUM_THREADS', '1')
    result = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
    print(result.stdout[-20000:], result.stderr[-20000:], flush=True)
    return result


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    """Return the last line of what a program printed, or of its errors if there is none."""
    lines = (result.stdout.strip() or result.stderr.strip()).splitlines()
    return lines[-1].strip() if lines else f'no output, exit status {result.returncode}'


def golden(options: Options) -> Outcome:
    """Losses, gradients and states are those of the released code, within the tests' tolerances."""
    tests = ROOT / 'tests' / 'golden'
    if not tests.is_dir():
        return Outcome('SKIP', 'an installed package has no tests: run the tool of a checkout')
    command = ['-m', 'pytest', str(tests), '--device', options.device, '-o', 'addopts=-q', '--tb=line']
    command += ['-p', 'no:cacheprovider']
    result = run(command + ['-k', 'whitening or sinkhorn or mixing'] * options.quick, options)
    failed = [line for line in result.stdout.splitlines() if line.startswith(('FAILED', 'ERROR'))]
    return judged(result.returncode == 0, last_line(result), failed=failed)


def resume(options: Options, deterministic: bool) -> Outcome:
    """With deterministic algorithms the trainings are equal, bit for bit; without, it is only told what differs."""
    few = 'workers=0 accumulate=1' + '  ' * options.quick  # with spaces it is not that of AMP
    command = [str(ROOT / 'tools' / 'misc' / 'check_resume.py'), CONFIG, '--filter', few]
    result = run(command + ['--deterministic'] * deterministic, options)
    lines = [line for line in result.stdout.splitlines() if line.startswith(('ok', 'FAIL'))]
    if not lines:
        return judged(False, last_line(result))
    return judged(result.returncode == 0 or not deterministic, last_line(result), lines=lines)


def launched(options: Options) -> Outcome:
    """A training under torchrun ends well: NCCL on CUDA, gloo on a CPU."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=1']
        tool = [str(ROOT / 'tools' / 'train.py'), CONFIG, '--launcher', 'pytorch', '--work-dir', folder]
        changes = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'num_threads=1']
        changes += ['test_cfg=None', 'test_dataloader=None', 'test_evaluator=None']
        result = run([*launcher, *tool, '--cfg-options', *changes], options)
    return judged(result.returncode == 0, 'ended well' if result.returncode == 0 else last_line(result))


def collectives(options: Options) -> Outcome:
    """Each collective and type in use, and DistributedDataParallel with SyncBatchNorm, works.

    One process is the identity everywhere in ``unmix.utils.dist``, so the backend is asked directly.
    """
    device, accelerator = torch.device(options.device), options.device != 'cpu'
    with tempfile.TemporaryDirectory() as folder:
        if accelerator:
            torch.accelerator.set_device_index(device.index or 0)
        backend = distributed.get_default_backend_for_device(device)
        distributed.init_process_group(backend, init_method=f'file://{folder}/store', rank=0, world_size=1)
        x = torch.ones(4, 3, device=device)
        for op in (ReduceOp.SUM, ReduceOp.MAX, ReduceOp.MIN):
            distributed.all_reduce(x.clone(), op)
        for dtype in REDUCED:
            y = torch.ones(3, device=device, dtype=dtype)
            distributed.all_reduce(y)
            distributed.broadcast(y, 0)
        distributed.all_gather([torch.empty_like(x)], x)
        distributed.gather(x, [torch.empty_like(x)], 0)
        distributed.broadcast_object_list([dict(a=1)], 0)
        objects: list[Any] = [None]
        distributed.gather_object(dict(a=1), objects, 0)
        distributed.all_gather_object(objects, dict(a=1))
        helper: Any = distributed.new_group(backend='gloo')
        distributed.all_reduce(torch.tensor([0]), ReduceOp.MAX, group=helper)
        if accelerator:
            network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network).to(device)
            wrapped = nn.parallel.DistributedDataParallel(network, device_ids=[device.index or 0])
            wrapped(torch.randn(2, 3, 4, 4, device=device)).sum().backward()
            torch.accelerator.synchronize()
        distributed.destroy_process_group()
    return judged(True, f'all work, by {backend}')
