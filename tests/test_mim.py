"""``mim`` on the installed package, as docs/installation.md says; in an environment of its own that has openmim.

python -m pytest tests/test_mim.py, with unmix installed from a wheel.
"""

import os
import shutil
import subprocess
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

pytest.importorskip('pkg_resources', reason='openmim needs setuptools < 82')
MIM = shutil.which('mim', path=sysconfig.get_path('scripts'))
WITHOUT = [f'{stage}_{key}=None' for stage in ('val', 'test') for key in ('cfg', 'dataloader', 'evaluator')]


def mim(folder: Path, *arguments: str) -> str:
    """Run a command of mim in ``folder``, on the package that is installed; return what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    assert MIM is not None
    done = subprocess.run([MIM, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def _openmim():
    try:
        metadata.version('openmim')
    except metadata.PackageNotFoundError:
        pytest.skip('openmim is not installed')


def test_list_and_search(tmp_path):
    assert 'unmix' in mim(tmp_path, 'list')
    found = mim(tmp_path, 'search', 'unmix', '--config', 'unmix-moco-sym_resnet18_1xb512-coslr-1000e_cifar10')
    assert 'config id: unmix-moco-sym_resnet18_1xb512-coslr-1000e_cifar10' in found
    assert '92.25' in found


def test_train_and_test_by_bare_name(tmp_path):
    """The checkpoint is in the work dir, and the test's result beside it."""
    common = ['--gpus', '0', '--launcher', 'none']
    options = ['--work-dir', 'run', '--cfg-options', 'train_cfg.max_epochs=1', *WITHOUT]
    mim(tmp_path, 'train', 'unmix', 'unmix-moco_digits.py', *common, *options)
    mim(tmp_path, 'test', 'unmix', 'unmix-moco_digits.py', '--checkpoint', 'run/epoch_1.pth', *common)
    assert (tmp_path / 'run' / 'results.json').is_file()
