"""The command ``unmix``: what it prints, leaves and says of errors."""

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pooch import file_hash

import unmix
from unmix.cli import COMMANDS, main
from unmix.config import load_config
from unmix.zoo.index import entries


def test_help_and_version(capsys):
    main([])
    listed = capsys.readouterr().out
    assert all(f'\n  {name} ' in listed for name in COMMANDS)
    for arguments in (['--help'], ['--version']):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
    output = capsys.readouterr().out
    assert listed in output
    assert output.endswith(f'unmix {unmix.__version__}\n')


@pytest.mark.parametrize('arguments', [[], ['--help'], ['--version']])
def test_help_and_version_import_neither_torch_nor_mmengine(arguments):
    """They take seconds."""
    script = """
import sys
from unmix.cli import main
try:
    main(sys.argv[1:])
finally:
    assert not {'torch', 'mmengine', 'numpy', 'rich'} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, '-c', script, *arguments], check=True, capture_output=True, text=True)
    assert done.stdout.startswith((f'unmix {unmix.__version__}\n', 'usage: unmix COMMAND ...'))


@pytest.mark.parametrize('name', COMMANDS)
def test_help_of_each_command(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, '--help'])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: unmix {name} ')
    assert pkgutil.resolve_name(COMMANDS[name][0]).__doc__


@pytest.mark.slow
@pytest.mark.parametrize(('arguments', 'status', 'message'), [
    (['trian'], 2, "unmix: error: there is no command 'trian'. Did you mean train?"),
    (['train'], 2, 'unmix train: error: the following arguments are required: config'),
    (['train', 'quickstart/unmix-moco_digit'], 1, 'Did you mean unmix::quickstart/unmix-moco_digits.py'),
    (['test', 'moco_digits', 'lost.pth', '--work-dir', 'out'], 1, 'lost.pth'),
    (['list', 'mocoo'], 1, "No name has 'mocoo'. Did you mean moco"),
    (['list', 'resnet50', '--pretrained'], 1, "No name of a model with weights has 'resnet50'"),
    (['download', 'moco_digit'], 1, 'Did you mean moco_digits'),
    (['download', 'mocov2_resnet50_8xb32-coslr-200e_in1k'], 1, 'has no published weights'),
    (['features', 'moco_digits', 'lost', '--out', 'x.npz'], 1, 'there is no folder lost'),
    (['convert', 'auto', 'lost.pth', 'out.pth'], 1, 'lost.pth'),
])  # fmt: skip
def test_errors_are_one_message(arguments, status, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == status
    error = capsys.readouterr().err
    assert message in error
    assert 'Traceback' not in error


def test_list_shows_each_model_with_its_figures(capsys):
    main(['list'])
    head, *rows = capsys.readouterr().out.splitlines()
    models = entries()
    assert [row.split()[0] for row in rows] == sorted(models)
    starts = [head.index(name) for name in ('NAME', 'DATA', 'EPOCHS', 'PUBLISHED', 'OURS', 'WEIGHTS')]
    for row in rows:
        name, data, epochs, published, ours, weights = (
            row[start:end].strip() for start, end in zip(starts, [*starts[1:], None], strict=True)
        )
        content = models[name].content
        assert (data, int(epochs)) == (content['Metadata']['Training Data'], content['Metadata']['Epochs'])
        assert weights == ('yes' if content['Weights'] else '-')
        for column, is_published in ((published, True), (ours, False)):
            results = [result for result in content['Results'] or [] if bool(result['Published']) == is_published]
            values = [str(value) for result in results for value in result['Metrics'].values()]
            assert [cell.split()[-1] for cell in column.split(', ')] == (values or ['-'])


def test_list_by_pattern(capsys):
    main(['list', 'unmix-wmse*_cifar10'])
    names = [row.split()[0] for row in capsys.readouterr().out.splitlines()[1:]]
    assert names == [f'unmix-wmse{n}_resnet18_1xb{b}-steplr-1000e_cifar10' for n, b in ((2, 512), (4, 256))]
    main(['list', '--pretrained'])
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == unmix.list_models(pretrained=True)
    main(['list', '--configs', 'knn'])
    assert capsys.readouterr().out.split() == ['benchmarks/knn-moco-sym_cifar10', 'benchmarks/knn-resnet50_in1k']


def test_a_reader_may_leave(monkeypatch, capfd):
    reading, writing = os.pipe()
    os.close(reading)
    for arguments in (['list'], ['--help']):
        with os.fdopen(os.dup(writing), 'w') as stream, monkeypatch.context() as patch:
            patch.setattr(sys, 'stdout', stream)
            with pytest.raises(SystemExit) as stop:
                main(arguments)
        assert stop.value.code != 0
    assert capfd.readouterr().err == ''


@pytest.mark.slow
def test_download_brings_weights_and_a_config_that_stands_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(['download', 'moco_digits', '--directory', 'here'])
    config, weights = map(Path, capsys.readouterr().out.split())
    assert sorted(Path('here').iterdir()) == sorted([config, weights])
    assert file_hash(weights) == entries()['moco_digits'].sha256
    assert '_base_' not in config.read_text()
    assert load_config(str(config)).to_dict() == load_config('moco_digits').to_dict()
    state = torch.load(weights)['state_dict']
    model = unmix.get_model('moco_digits')
    assert all(torch.equal(tensor, state[f'backbone.{name}']) for name, tensor in model.state_dict().items())
