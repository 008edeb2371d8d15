"""Two processes that agree, and each kind of culprit, which must be named."""

import os
import runpy
import shutil
import socket
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import distributed
from torch import multiprocessing as mp

import unmix

pytestmark = pytest.mark.ranks

PREFLIGHT = Path(__file__).resolve().parents[2] / 'tools' / 'misc' / 'preflight.py'
HERE = socket.gethostname()
TIMEOUT = 3


def _rank(rank: int, directory: Path, port: int, agent: bool, arguments: list[str], timeout: int, code: str) -> None:
    """Run the tool as a launcher would, in a directory and with a package of its own."""
    variables = dict(RANK=rank, WORLD_SIZE=2, LOCAL_RANK=rank, MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    os.environ.update({key: str(value) for key, value in variables.items()}, TORCHELASTIC_USE_AGENT_STORE=str(agent))
    os.environ['CUDA_VISIBLE_DEVICES'] = ''
    if code != unmix.__file__:
        unmix.__file__, unmix.__version__ = code, '9.9'
    os.chdir(directory / str(rank))
    sys.path.insert(0, str(PREFLIGHT.parent))  # as Python does for a script
    sys.argv = ['preflight.py', *arguments, '--launcher', 'pytorch', '--timeout', str(timeout), '--size', '0.25']
    with open('output', 'w', encoding='utf-8') as output, redirect_stdout(output), redirect_stderr(output):
        status = 0
        try:
            runpy.run_path(str(PREFLIGHT), run_name='__main__')
        except SystemExit as end:
            status = end.code
        print(f'status {status}')


def preflight(
    directory: Path,
    *arguments: list[str],
    ranks: tuple[int, ...] = (0, 1),
    timeout: int = 60,
    patience: float = 30,
    code: str = '',
    agent: bool = False,
) -> list[str]:
    """Run ranks of two, each with its arguments, and return what each one prints.

    The first that ends leaves the other ``patience`` seconds. ``code`` is the package of rank 1; an ``agent`` keeps the
    store, as torchrun does.
    """
    mp.set_forkserver_preload(['torch', 'mmengine.runner', 'unmix'])
    context = mp.get_context('forkserver')
    store = distributed.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = store.port if agent else probe.getsockname()[1]
    processes = []
    for rank in ranks:
        (directory / str(rank)).mkdir(exist_ok=True)
        own = arguments[min(rank, len(arguments) - 1)]
        package = code if rank and code else unmix.__file__
        processes.append(context.Process(target=_rank, args=(rank, directory, port, agent, own, timeout, package)))
        processes[-1].start()
    processes[0].join(120)
    for process in processes:
        process.join(patience)
        process.kill()
    return [(directory / str(rank) / 'output').read_text() for rank in ranks]


QUICKSTART = 'unmix::quickstart/unmix-moco_digits.py'


@pytest.mark.parametrize('agent', [False, True])
def test_two_ranks_that_agree(tmp_path: Path, agent: bool):
    first, second = preflight(tmp_path, [QUICKSTART], agent=agent)
    for text in (
        '2 ranks on 1 machine(s) agree',
        f'unmix: {unmix.__version__}',
        'train_dataloader.dataset size: 1257',
        'val_dataloader.dataset size: 540',
        'all-reduce of 0.25 MiB: right',
        'status 0',
    ):
        assert text in first
    assert second == 'status 0\n'


def test_another_config(tmp_path: Path):
    first, second = preflight(tmp_path, [QUICKSTART], [QUICKSTART, '--cfg-options', 'train_cfg.max_epochs=3'])
    assert "error: preflight, step 'agree': config is " in first
    assert f'on rank 0 on {HERE}' in first
    assert f'on rank 1 on {HERE}' in first
    assert 'code is' not in first
    assert 'status 1' in first
    assert second == 'status 1\n'


def test_other_code_of_another_version(tmp_path: Path):
    package = tmp_path / 'other' / 'unmix'
    package.parent.mkdir()
    (package.parent / 'configs').symlink_to(PREFLIGHT.parents[2] / 'configs')
    shutil.copytree(Path(unmix.__file__).parent, package, ignore=shutil.ignore_patterns('.mim', '__pycache__'))
    with (package / 'mixing' / 'ops.py').open('a') as module:
        module.write('\n')
    first, _ = preflight(tmp_path, [QUICKSTART], code=str(package / '__init__.py'))
    versions = f'unmix is {unmix.__version__} on rank 0 on {HERE}, but 9.9 on rank 1 on {HERE}'
    assert f"error: preflight, step 'agree': {versions}; code is " in first
    assert 'config is' not in first


def test_another_size_of_the_data(tmp_path: Path):
    """The same relative path, and one image less where rank 1 is."""
    for rank, number in ((0, 4), (1, 3)):
        (tmp_path / str(rank) / 'images').mkdir(parents=True)
        for i in range(number):
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / str(rank) / 'images' / f'{i}.png')
    options = ['unmix::quickstart/unmix-moco_folder.py', '--cfg-options', 'data_root=images']
    first, _ = preflight(tmp_path, options)
    message = f'train_dataloader.dataset size is 4 on rank 0 on {HERE}, but 3 on rank 1 on {HERE}\n'
    assert f"error: preflight, step 'agree': {message}" in first


def test_an_error_at_one_rank(tmp_path: Path):
    first, second = preflight(tmp_path, [QUICKSTART], ['nowhere.py'])
    assert f'rank 1 on {HERE}: FileNotFoundError: The config nowhere.py does not exist' in first
    assert second == 'status 1\n'


@pytest.mark.parametrize(
    ('present', 'message'),
    [
        (0, f"preflight, step 'come': no report within {TIMEOUT} s from rank 1\n"),
        (1, f'rank 1 on {HERE} cannot reach rank 0 within {TIMEOUT} s at MASTER_ADDR:MASTER_PORT 127.0.0.1:'),
    ],
)
def test_a_rank_that_does_not_come(tmp_path: Path, present: int, message: str):
    (output,) = preflight(tmp_path, [QUICKSTART], ranks=(present,), timeout=TIMEOUT)
    assert f'error: {message}' in output
    assert output.endswith('status 1\n')


def test_a_rank_that_hangs_is_named_with_its_machine(tmp_path: Path):
    for rank, text in (0, ''), (1, 'import time; time.sleep(600)'):
        (tmp_path / str(rank)).mkdir()
        (tmp_path / str(rank) / 'config.py').write_text(text)
    first, second = preflight(tmp_path, ['config.py'], timeout=TIMEOUT, patience=0)
    assert f"error: preflight, step 'agree': no report within {TIMEOUT} s from rank 1 on {HERE}\n" in first
    assert 'status 1' in first
    assert second == ''
