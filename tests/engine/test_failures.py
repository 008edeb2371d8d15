"""What fails beside a training: one message, the training saved, and logs that are lost do not end it."""

import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_toy import ToyData, toy_runner
from mmengine.registry import DATASETS
from mmengine.visualization import BaseVisBackend
from torch.utils.data import DataLoader

from unmix.engine.failures import failures_explained
from unmix.registry import VISBACKENDS

TEXTS = {  # of PyTorch
    'DataLoader worker (pid 123) is killed by signal: Killed. ': (
        ChildProcessError, r'process 123\) was ended by a signal \(Killed\).*train_dataloader\.num_workers'),
    'DataLoader worker (pid(s) 1, 2) exited unexpectedly': (ChildProcessError, r'process 1, 2\) has ended'),
    'Pin memory thread exited unexpectedly': (ChildProcessError, r'A worker of a DataLoader has ended'),
    'DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader\'s workers are out of '
    'shared memory. Please try to raise your shared memory limit.': (OSError, r'/dev/shm.*num_workers=2'),
    'unable to write to file </torch_1_2_3>: No space left on device (28)': (OSError, '/dev/shm'),
    'Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n'
    'RuntimeError: unable to allocate shared memory(shm) for file </torch_1>: Resource temporarily unavailable (11)': (
        OSError, '/dev/shm'),
    'could not unlink the shared memory file /torch_1 : No such file': (RuntimeError, 'could not unlink'),
    '[../third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1': (
        ConnectionError, r'Another process .* closed by peer'),
    '[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1)': (
        ConnectionError, r'NCCL.*more than 90 s: .*dist_cfg\.timeout='),
    'mat1 and mat2 shapes cannot be multiplied': (RuntimeError, '^mat1 and mat2'),
}  # fmt: skip


RUNNER = SimpleNamespace(work_dir='runs/a', cfg=dict(env_cfg=dict(dist_cfg=dict(timeout=90))))


@pytest.mark.parametrize('text', TEXTS)
def test_errors_of_pytorch_are_explained(text: str):
    kind, message = TEXTS[text]
    with pytest.raises(kind, match=message) as caught, failures_explained(RUNNER):
        raise RuntimeError(text)
    if kind is not RuntimeError:
        assert re.search(r'--resume from the last checkpoint in runs/a', str(caught.value))
        assert '\n' not in str(caught.value)


@pytest.mark.parametrize('kind', [ConnectionResetError, EOFError, FileNotFoundError])
def test_a_socket_of_a_worker_that_breaks_is_the_end_of_the_worker(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
):
    """It can break before PyTorch knows that the worker ended; the same error of the user's own code stays."""
    loader: Any = iter(DataLoader(ToyData(), num_workers=1))

    def get(**_: Any) -> Any:
        raise kind('reset')

    monkeypatch.setattr(loader._data_queue, 'get', get)
    ended = r'A worker of a DataLoader has ended.*--resume'
    with pytest.raises(ChildProcessError, match=ended), failures_explained(RUNNER):
        next(loader)
    with pytest.raises(kind, match='reset'), failures_explained(RUNNER):
        raise kind('reset')


@DATASETS.register_module(force=True)
class FailingData(ToyData):
    """Ends or raises at the image ``bad``, while ``FAIL`` is set."""

    def __init__(self, kind: str = 'server', bad: int = 20) -> None:
        super().__init__()
        self.kind, self.bad = kind, bad

    def __getitem__(self, key: Any) -> dict[str, Any]:
        item = super().__getitem__(key)
        if item['index'] == self.bad and 'FAIL' in os.environ:
            if self.kind == 'killed':
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(116, 'Stale file handle', 'images/20.jpg')
        return item


@pytest.mark.slow
@pytest.mark.parametrize('kind', [pytest.param('killed', marks=pytest.mark.slow), 'server'])
def test_the_training_is_saved_when_its_data_fail(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The end of a worker, or of a file server; the resumed run equals an uninterrupted one."""
    data = dict(type='mmengine.FailingData', kind=kind)
    changes = dict(train_dataloader__dataset=data, train_dataloader__num_workers=int(kind == 'killed'))
    changes |= dict(default_hooks__checkpoint=dict(type='CheckpointHook', interval=100))
    whole = toy_runner(tmp_path / 'whole', train_dataloader__dataset=data)
    whole.train()
    monkeypatch.setenv('FAIL', '1')
    run = toy_runner(tmp_path / 'run', **changes)
    with pytest.raises(ChildProcessError if kind == 'killed' else OSError, match=r'process|Stale file handle'):
        run.train()
    saved = list((tmp_path / 'run').glob('interrupted_iter_*.pth'))
    assert len(saved) == 1
    assert 0 < run.iter < 6
    monkeypatch.delenv('FAIL')
    resumed = toy_runner(tmp_path / 'run', resume=True, **changes)
    resumed.train()
    assert torch.equal(resumed.model.layer.weight, whole.model.layer.weight)


@pytest.mark.parametrize('bad', [0])
def test_nothing_is_saved_before_the_first_iteration(bad: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('FAIL', '1')
    run = toy_runner(
        tmp_path, train_dataloader__dataset=dict(type='mmengine.FailingData', bad=bad), train_dataloader__batch_size=24
    )
    with pytest.raises(OSError, match='Stale file handle'):
        run.train()
    assert not list(tmp_path.glob('*.pth'))


@VISBACKENDS.register_module(force=True)
class BrokenVisBackend(BaseVisBackend):
    """Raises in one method, and counts its calls."""

    def __init__(self, save_dir: str, method: str) -> None:
        self.method, self.calls = method, 0
        super().__init__(save_dir)

    experiment = None

    def _init_env(self) -> None: ...

    def _fail(self, method: str) -> None:
        if method == self.method:
            self.calls += 1
            raise RuntimeError('no connection\nto the server')

    def add_config(self, *args: Any, **kwargs: Any) -> None:
        self._fail('add_config')

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        self._fail('add_scalar')

    def add_scalars(self, *args: Any, **kwargs: Any) -> None:
        self._fail('add_scalars')

    def close(self) -> None:
        self._fail('close')


def broken(tmp_path: Path, method: str) -> Any:
    backends = [dict(type='PatientVisBackend'), dict(type='BrokenVisBackend', method=method)]
    return toy_runner(
        tmp_path, visualizer=dict(type='Visualizer', vis_backends=backends), default_hooks__logger__interval=1
    )


@pytest.mark.parametrize('method', ['add_scalars', 'close'])
def test_a_backend_that_fails_does_not_end_the_training(method: str, tmp_path: Path):
    run = broken(tmp_path, method)
    run.train()
    assert run.visualizer.get_backend('BrokenVisBackend').calls == 1
    log = next(tmp_path.glob('*/*.log')).read_text(encoding='utf-8')
    warning = (
        f'visualizer.vis_backends: BrokenVisBackend failed in {method} (RuntimeError: no connection to the server)'
    )
    assert log.count(warning) == 1
    lines = next(tmp_path.glob('*/vis_data/scalars.json')).read_text(encoding='utf-8').splitlines()
    assert len(lines) == 18


def test_a_backend_that_cannot_start_is_one_message(tmp_path: Path):
    with pytest.raises(
        ValueError, match=r'visualizer\.vis_backends: BrokenVisBackend cannot be started .*to the server'
    ):
        broken(tmp_path, 'add_config').train()
