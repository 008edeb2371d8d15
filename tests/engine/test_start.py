"""All ranks begin alike, and a rank that ends or hangs does not keep the others."""

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from unmix.engine.start import check_start, digests
from unmix.models.memory import FeatureQueue
from unmix.testing.ranks import run_ranks
from unmix.utils.dist import host_group

ROOT = Path(__file__).resolve().parents[2]


class Net(nn.Module):
    """A weight, a queue, BatchNorm, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.queue = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), FeatureQueue(8, 3)
        self.register_buffer('table', torch.arange(3), persistent=False)

    def forward(self, x):
        return self.layers(x)


def test_digests_are_of_values():
    torch.manual_seed(0)
    net = Net()
    before = digests(net)
    assert {'layers.0.weight', 'queue.features', 'queue.pointer', 'table'} <= before.keys()
    net.layers[1].running_mean += 1  # of a rank
    assert digests(net) == before
    net.queue.features[0, 0] = torch.nextafter(net.queue.features[0, 0], torch.tensor(9.0))
    assert [name for name, digest in digests(net).items() if digest != before[name]] == ['queue.features']
    assert digests(net.bfloat16())['layers.0.weight'] != before['layers.0.weight']


def start_on_rank(rank: int, directory: Path) -> None:
    """Ranks that begin alike, and those that do not."""
    cfg = Config(dict(env_cfg=dict(dist_cfg=dict(timeout=40))))
    torch.manual_seed(0)
    runner = SimpleNamespace(seed=0, model=DistributedDataParallel(Net(), broadcast_buffers=False), cfg=cfg)
    check_start(runner)
    group = host_group()
    assert group is host_group() is not distributed.group.WORLD
    assert group._get_backend(torch.device('cpu')).options._timeout == timedelta(seconds=40)
    runner.model.module.layers[1].running_mean += rank
    check_start(runner)

    def refused(text: str) -> None:
        with pytest.raises(ValueError, match=text):
            check_start(runner)

    runner.seed = rank
    refused(r'begin alike: randomness\.seed on rank 1, other than on rank 0\. Give all of them the same')
    runner.seed = 0
    torch.manual_seed(rank)
    # The release of MMEngine never sends buffers: DDP makes the weights alike and leaves the queue.
    runner.model = DistributedDataParallel(Net(), broadcast_buffers=False)
    refused(r'alike: queue\.features on rank 1')
    runner.model.module.queue.features.zero_()
    runner.model.module.table += rank
    refused(r'alike: table on rank 1')
    (directory / f'{rank}.done').write_text('')


@pytest.mark.ranks
def test_ranks_that_begin_with_something_else_are_refused(tmp_path):
    run_ranks(start_on_rank, 2, tmp_path, tmp_path)
    assert len(list(tmp_path.glob('*.done'))) == 2


# Rank 1 ends, or hangs, in the middle of an evaluation: while features are computed, or in a metric on shards of them.
WORKER = """
import os
import signal
import sys

from mmengine.hooks import Hook

import feature_toy
from unmix.apis.command import run_tool
from unmix.engine import runner
from unmix.engine.launch import init_cpu_distributed


class Leave(Hook):
    name, sharded = 'leave', True

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.rank == 1 and sys.argv[3] == 'extraction':
            os.kill(os.getpid(), int(sys.argv[1]))

    def __call__(self, bank, test):
        assert bank.spread
        if sys.argv[3] == 'metric' and len(bank.rows) < len(bank.all_labels) / 2:  # 11 of 23 are on rank 1
            os.kill(os.getpid(), int(sys.argv[1]))
        return {}


def main():
    cfg = feature_toy.Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(timeout=4))))
    init_cpu_distributed(cfg)
    feature_toy.Runner = runner.Runner
    evaluated = feature_toy.feature_runner(sys.argv[2], **cfg)
    leave = Leave()
    evaluated.register_hook(leave)
    evaluated.val_loop.metrics.insert(0, leave)
    print('evaluating', flush=True)
    evaluated.val()


run_tool(main)
"""


@pytest.mark.parametrize('place', ['extraction', 'metric'])
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.ranks
def test_a_rank_that_ends_or_hangs_in_an_evaluation_ends_the_job(tmp_path, number, place):
    """Within the time-out, 4 s here; the message says what to look at and which key to set."""
    (tmp_path / 'worker.py').write_text(WORKER)
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = str(probe.getsockname()[1])
    shared = dict(os.environ, WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port, OMP_NUM_THREADS='1')
    shared |= dict(CUDA_VISIBLE_DEVICES='', PYTHONPATH=f'{ROOT}:{ROOT}/tests/engine')
    shared.pop('UNMIX_DEBUG', None)
    command = [sys.executable, str(tmp_path / 'worker.py'), str(int(number)), str(tmp_path), place]
    other, first = (
        subprocess.Popen(
            command, env=shared | dict(RANK=rank, LOCAL_RANK=rank), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in ('1', '0')
    )  # fmt: skip
    try:
        assert first.stdout.readline() == 'evaluating\n'
        begin = time.monotonic()
        _, errors = first.communicate(timeout=60)
        seconds = time.monotonic() - begin
    finally:
        other.kill()
        other.communicate()
    assert first.returncode == 1
    assert 'error: Another process of this run has ended, or does not answer' in errors
    assert 'allow more than 4 s: --cfg-options env_cfg.dist_cfg.timeout=7200' in errors
    assert 'Traceback' not in errors
    assert seconds < 4 + 10  # and what the evaluation itself takes on a loaded machine
