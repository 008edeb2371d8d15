"""The tools as a user starts them: from any directory, by name; what they leave behind, and what they say of errors."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unmix.config import find_config

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = 'unmix::quickstart/unmix-moco_digits.py'
SHORT = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1', 'num_threads=1']


def run(directory, tool, *arguments, status=0, program=sys.executable):
    """Run a tool in ``directory``; return what it printed."""
    command = [program, str(ROOT / 'tools' / tool), *map(str, arguments)]
    environment = dict(os.environ, OMP_NUM_THREADS='1', COLUMNS='200', PYTHON=sys.executable)
    result = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == status, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The work dir of a short quickstart, started elsewhere than in the checkout."""
    directory = tmp_path_factory.mktemp('trained')
    output = run(directory, 'train.py', QUICKSTART, '--cfg-options', *SHORT)
    return directory / 'work_dirs' / 'unmix-moco_digits', output


@pytest.mark.slow
def test_training_ends_with_the_table_and_its_files(trained):
    work_dir, output = trained
    for text in ('raw pixels', 'random initialisation', 'MoCo + Un-Mix', 'loss_base', 'loss_unmix', 'data wait', 'lr '):
        assert text in output
    assert {'results.json', 'curves.png', 'views.png', 'unmix-moco_digits.py', 'epoch_2.pth'} <= set(
        os.listdir(work_dir)
    )
    results = json.loads((work_dir / 'results.json').read_text())
    for metric in ('knn', 'linear', 'linear_10_per_class'):
        assert {'top1', 'random_init_top1', 'raw_pixels_top1'} <= results[metric].keys()
        assert 10 < results[metric]['top1'] <= 100
    assert results['knn']['raw_pixels_top1'] == pytest.approx(95.7, abs=0.3)
    assert (results['epochs'], results['seed'], results['threads']) == (2, 0, 1)
    assert results['config'] == 'unmix-moco_digits.py'
    assert results['versions']['torch'] == torch.__version__
    assert {'loss_base', 'loss_unmix', 'lr'} <= json.loads(
        next(work_dir.glob('*/vis_data/scalars.json')).open().readline()
    ).keys()


@pytest.mark.slow
def test_test_repeats_the_result_of_the_training(trained, tmp_path):
    work_dir, _ = trained
    run(
        tmp_path,
        'test.py',
        QUICKSTART,
        work_dir / 'epoch_2.pth',
        '--work-dir',
        tmp_path,
        '--cfg-options',
        'num_threads=1',
    )
    ours, again = (json.loads((path / 'results.json').read_text()) for path in (work_dir, tmp_path))
    for metric in ('knn', 'linear', 'linear_10_per_class'):
        assert again[metric] == pytest.approx(ours[metric], abs=0.2)


@pytest.mark.slow
def test_resumed_training_equals_the_uninterrupted_one(trained, tmp_path):
    work_dir, _ = trained
    (tmp_path / 'run').mkdir()
    start = work_dir / 'epoch_1.pth'
    output = run(tmp_path, 'train.py', QUICKSTART, '--work-dir', 'run', '--resume', start, '--cfg-options', *SHORT)
    assert 'resumed epoch: 1' in output
    final, resumed = (torch.load(path / 'epoch_2.pth', weights_only=False) for path in (work_dir, tmp_path / 'run'))
    for key, value in final['state_dict'].items():
        assert torch.equal(resumed['state_dict'][key], value), key
    again = run(tmp_path, 'train.py', QUICKSTART, '--work-dir', 'run', '--resume', '--cfg-options', *SHORT)
    assert 'resumed epoch: 2' in again


@pytest.mark.ranks
def test_two_processes_on_cpu(tmp_path):
    arguments = [find_config(QUICKSTART), 2, '--work-dir', tmp_path, '--cfg-options', *SHORT, 'train_cfg.max_epochs=1']
    output = run(ROOT, 'dist_train.sh', *arguments[:2], *arguments[2:], program='bash')
    assert output.count('MoCo + Un-Mix') == 1
    assert (tmp_path / 'results.json').is_file()
    assert torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']['head.queue.pointer'] == 4 * 256 % 512


@pytest.mark.slow
def test_mixed_precision_on_cpu(tmp_path):
    options = [*SHORT, 'train_cfg.max_epochs=1', 'test_cfg=None', 'test_dataloader=None', 'test_evaluator=None']
    run(tmp_path, 'train.py', QUICKSTART, '--work-dir', tmp_path, '--amp', '--cfg-options', *options)
    state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}


@pytest.mark.slow
def test_print_config(tmp_path):
    output = run(tmp_path, 'misc/print_config.py', QUICKSTART, '--cfg-options', 'train_dataloader.batch_size=32')
    assert 'batch_size=32' in output
    assert "type='UnMix'" in output


@pytest.mark.slow
@pytest.mark.parametrize(('arguments', 'message'), [
    (['nowhere.py'], 'The config nowhere.py does not exist'),
    ([QUICKSTART, '--cfg-options', 'model.momentun=0.9'], 'Did you mean momentum'),
    ([QUICKSTART, '--work-dir', 'file/below'], 'The work dir file/below cannot be written to'),
    ([QUICKSTART, '--cfg-options', 'train_dataloader.batch_size=2000'], 'train_dataloader.batch_size is 2000'),
    ([QUICKSTART, '--cfg-options', 'train_dataloader.batch_size=30'], 'num_splits=4'),
    ([QUICKSTART, '--resume', 'nowhere.pth'], 'nowhere.pth'),
    ([QUICKSTART, '--resume', 'other.pth'], 'other.pth is a checkpoint of another model: 0%'),
    ([QUICKSTART, '--cfg-options', 'train_dataloader.dataset.split=training'], "dataset.split is 'training'"),
    (['unmix::moco/moco-sym_resnet18_1xb512-coslr-1000e_cifar10.py'], 'data/cifar10'),
])  # fmt: skip
def test_errors_are_one_message(tmp_path, monkeypatch, capfd, arguments, message):
    """Run the tool inside this process, which saves starting one."""
    (tmp_path / 'file').write_text('')
    torch.save(dict(state_dict={'a': torch.zeros(1)}, meta={}), tmp_path / 'other.pth')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['train.py', *arguments])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / 'tools' / 'train.py'), run_name='__main__')
    assert stop.value.code == 1
    output = ''.join(capfd.readouterr())
    output = output[output.index('\nerror: ') :]  # before it, pytest's own capture may complain
    assert message in output
    assert 'Traceback' not in output
    assert 'UNMIX_DEBUG=1' in output


@pytest.mark.slow
def test_names_of_any_characters_in_a_locale_that_is_not_utf_8(tmp_path):
    """A config, a work dir and messages with characters that the locale lacks, and a byte that is no UTF-8."""
    folder = os.fsencode(tmp_path / '日本 ü') + b'\xff'
    os.mkdir(folder)
    config, work_dir = folder + '/конфиг.py'.encode(), folder + b'/run'
    with open(config, 'w', encoding='utf-8') as file:
        file.write(f"# ü\n_base_ = '{QUICKSTART}'\ntrain_cfg = dict(max_epochs=1)\n")
    environment = dict(os.environ, LC_ALL='C', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0', OMP_NUM_THREADS='1')

    def start(tool, *arguments):
        command = [sys.executable, ROOT / 'tools' / tool, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=300, check=False)
        return done.returncode, done.stdout + done.stderr

    options = ['--cfg-options', 'default_hooks.checkpoint.interval=1', 'test_cfg=None', 'test_dataloader=None']
    options += ['test_evaluator=None']
    for more in ([], ['train_cfg.max_epochs=2']):
        status, output = start('train.py', config, '--work-dir', work_dir, '--resume', *options, *more)
        assert status == 0, output
    files = set(os.listdir(work_dir))
    assert {b'epoch_1.pth', b'epoch_2.pth', 'конфиг.py'.encode()} <= files
    with open(work_dir + b'/last_checkpoint', 'rb') as file:
        assert file.read() == work_dir + b'/epoch_2.pth'
    logs = [name for name in files if name[:2] == b'20']
    assert len(logs) == 2
    for name in logs:
        with open(work_dir + b'/' + name + b'/' + name + b'.log', 'rb') as file:
            assert folder in file.read()
    status, output = start('train.py', config + b'x')
    assert status == 1
    assert 'конфиг'.encode() in output
    assert b'Traceback' not in output
