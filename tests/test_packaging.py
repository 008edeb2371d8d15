"""Builds and installs without a network: requirements, ``unmix/.mim``, and the command in every kind of install."""

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a build reads, with a nested config and, in build/, what an earlier build left behind."""
    copy = tmp_path_factory.mktemp('checkout')
    junk = shutil.ignore_patterns('__pycache__', '.mim')
    for name in ('unmix', 'tools', 'configs'):
        shutil.copytree(ROOT / name, copy / name, ignore=junk) if (ROOT / name).is_dir() else (copy / name).mkdir()
    for name in ('setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'model-index.yml'):
        shutil.copyfile(ROOT / name, copy / name)
    files = {
        'configs/_base_/added.py': 'x = 1\n',
        'tools/__pycache__/junk.pyc': '',
        'build/lib/unmix/removed.py': '',
        'build/lib/unmix/.mim/configs/removed.py': '',
    }
    for name, text in files.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(text)
    return copy


def backend(checkout: Path, call: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Call a hook of the build backend as pip does, in a process of its own; its last line is the hook's result."""
    code = f'from setuptools import build_meta\nprint(build_meta.{call})'
    environment = {key: value for key, value in os.environ.items() if key not in ('UNMIX_MM', 'PYTHONPATH')} | env
    return subprocess.run([sys.executable, '-c', code], cwd=checkout, env=environment, capture_output=True, text=True)


def build(checkout: Path, out: Path, hook: str, **env: str) -> Path:
    done = backend(checkout, f'{hook}({str(out)!r})', **env)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.splitlines()[-1]


def metadata(checkout: Path, out: Path, **env: str) -> Message:
    folder = build(checkout, out, 'prepare_metadata_for_build_wheel', **env)
    return email.message_from_string((folder / 'METADATA').read_text(encoding='utf-8'))


def mim_files(checkout: Path) -> set[str]:
    """What unmix/.mim has to hold, as paths below it."""
    found = {path for name in ('configs', 'tools') for path in (checkout / name).rglob('*') if path.is_file()}
    listed = {path.relative_to(checkout).as_posix() for path in found if path.suffix != '.pyc'}
    assert 'configs/_base_/added.py' in listed
    assert 'tools/dist_train.sh' in listed
    return listed | {'model-index.yml'}


FAMILIES = {
    None: {'mmengine', 'mmcv-lite'},
    'official': {'mmengine', 'mmcv-lite'},
    'onedl': {'onedl-mmengine', 'onedl-mmcv'},
    'none': set(),
}


@pytest.mark.parametrize('choice', FAMILIES)
def test_unmix_mm_chooses_the_mmengine_that_is_required(choice: str | None, checkout: Path, tmp_path: Path):
    found = metadata(checkout, tmp_path, **({} if choice is None else {'UNMIX_MM': choice}))
    required = [line for line in found.get_all('Requires-Dist', []) if 'extra ==' not in line]
    names = {line.split('>')[0].split('<')[0].strip() for line in required}
    assert names & set().union(*FAMILIES.values()) == FAMILIES[choice]
    assert {'torch', 'torchvision', 'numpy', 'scikit-learn'} < names


def test_metadata_names_pythons_licence_and_extras(checkout: Path, tmp_path: Path):
    found = metadata(checkout, tmp_path)
    versions = [line.rpartition(' ')[2] for line in found.get_all('Classifier', []) if ':: 3.' in line]
    assert versions == ['3.10', '3.11', '3.12', '3.13']
    assert found['Requires-Python'] == '>=3.10'
    assert (found['License-Expression'], found.get_all('License-File')) == ('Apache-2.0', ['LICENSE'])
    assert {'tests', 'dev', 'docs', 'tensorboard', 'parquet', 'export'} <= set(found.get_all('Provides-Extra', []))


def test_an_unknown_unmix_mm_is_refused(checkout: Path):
    done = backend(checkout, 'get_requires_for_build_wheel()', UNMIX_MM='mmcv')
    assert done.returncode != 0
    assert "UNMIX_MM='mmcv' is unknown; expected one of official, onedl, none" in done.stderr


def test_wheel_carries_mim_files_and_nothing_stale(checkout: Path, tmp_path: Path):
    before = {path for path in (checkout / 'unmix').rglob('*') if '__pycache__' not in path.parts}
    with zipfile.ZipFile(build(checkout, tmp_path, 'build_wheel')) as wheel:
        names = set(wheel.namelist())
        mode = wheel.getinfo('unmix/.mim/tools/dist_train.sh').external_attr >> 16
    assert {name.removeprefix('unmix/.mim/') for name in names if '/.mim/' in name} == mim_files(checkout)
    assert {'unmix/py.typed', 'unmix/visualization/page/page.js', 'unmix/visualization/page/uPlot.LICENSE'} <= names
    assert 'unmix/removed.py' not in names
    assert {name.split('/')[0] for name in names} == {'unmix', 'unmix-0.1.0.dist-info'}
    assert mode & 0o111
    assert {path for path in (checkout / 'unmix').rglob('*') if '__pycache__' not in path.parts} == before


def test_sdist_carries_mim_files_and_builds_the_same_wheel(checkout: Path, tmp_path: Path):
    archive = build(checkout, tmp_path, 'build_sdist')
    with tarfile.open(archive) as sdist:
        sdist.extractall(tmp_path, filter='data')
    unpacked = tmp_path / 'unmix-0.1.0'
    mim = unpacked / 'unmix' / '.mim'
    assert {path.relative_to(mim).as_posix() for path in mim.rglob('*') if path.is_file()} == mim_files(checkout)
    assert mim_files(unpacked) == mim_files(checkout)
    with zipfile.ZipFile(build(unpacked, tmp_path, 'build_wheel')) as second:
        again = set(second.namelist())
    with zipfile.ZipFile(build(checkout, tmp_path, 'build_wheel')) as first:
        assert again == set(first.namelist())


def test_editable_install_links_to_the_checkout(checkout: Path, tmp_path: Path):
    mim = checkout / 'unmix' / '.mim'
    (mim / 'configs').mkdir(parents=True)
    (mim / 'configs' / 'stale.py').write_text('')
    with zipfile.ZipFile(build(checkout, tmp_path, 'build_editable')) as wheel:
        assert not [name for name in wheel.namelist() if '.mim' in name]
    assert {path.name: path.resolve() for path in mim.iterdir()} == {
        name: checkout / name for name in ('configs', 'tools', 'model-index.yml')
    }
    assert not (checkout / 'configs' / 'stale.py').exists()
    (checkout / 'configs' / 'new.py').write_text('')
    assert (mim / 'configs' / 'new.py').is_file()
    build(checkout, tmp_path, 'build_editable')  # and once more over its own links
    assert (checkout / 'configs' / 'new.py').is_file()


# What a user does, in one process, since each would import PyTorch anew.
COMMANDS = """
import runpy, sys

def run(*arguments):
    sys.argv = [SCRIPT, *arguments]
    try:
        runpy.run_path(SCRIPT, run_name='__main__')
    except SystemExit as stop:
        assert not stop.code, arguments

SCRIPT = sys.argv[1]
without = [f'{stage}_{key}=None' for stage in ('val', 'test') for key in ('cfg', 'dataloader', 'evaluator')]
run('train', 'quickstart/unmix-moco_digits', '--cfg-options', 'train_cfg.max_epochs=1', *without)
run('list', 'digits')
run('download', 'moco_digits', '--directory', 'weights')
import torch, unmix
print('WIDTH', unmix.get_model('moco_digits')(torch.zeros(1, 1, 16, 16)).shape[1])
print('PATH', unmix.__file__, *sys.path, sep=':')
"""


@pytest.mark.parametrize('kind', ['wheel', 'sdist', 'editable'])
def test_commands_work_in_each_kind_of_install(kind: str, checkout: Path, tmp_path: Path):
    """Installed by pip into an environment of its own, called in a folder with nothing of the project."""
    venv, folder = tmp_path / 'venv', tmp_path / 'elsewhere'
    folder.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(('PYTHONPATH', 'UNMIX_'))}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, '-m', 'venv', '--without-pip', venv)
    packages = next(venv.glob('lib/python*/site-packages'))
    # PyTorch and pip are those of this environment; its own .pth files, an editable unmix among them, do not count.
    (packages / 'base.pth').write_text(sysconfig.get_path('purelib'))
    what = {'editable': ['-e', checkout]}.get(kind) or [build(checkout, tmp_path, f'build_{kind}')]
    options = ['--no-deps', '--no-index', '--no-build-isolation', '--ignore-installed', '--disable-pip-version-check']
    run(venv / 'bin' / 'python', '-m', 'pip', 'install', *options, *what)

    output = run(venv / 'bin' / 'python', '-c', COMMANDS, venv / 'bin' / 'unmix')
    assert {'unmix-moco_digits', 'swav_digits'} <= {line.split(' ')[0] for line in output.splitlines()}
    assert '\nWIDTH 64\n' in output
    package, *path = output.splitlines()[-1].split(':')[1:]
    home = checkout if kind == 'editable' else packages
    assert Path(package) == home / 'unmix' / '__init__.py'
    assert not {str(ROOT), str(ROOT / 'unmix')} & set(path)
    assert (kind == 'editable') == any(entry.startswith(str(checkout)) for entry in [package, *path])
    assert {entry.name for entry in folder.iterdir()} == {'work_dirs', 'weights'}
    assert (folder / 'work_dirs' / 'unmix-moco_digits' / 'epoch_1.pth').is_file()
    assert {entry.suffix for entry in (folder / 'weights').iterdir()} == {'.py', '.pth'}
