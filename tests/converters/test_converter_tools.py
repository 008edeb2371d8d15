"""The tools: what they print, write and refuse."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml
from foreign import randomise
from PIL import Image
from pooch import file_hash

import unmix
from unmix.apis.convert import convert
from unmix.apis.publish import publish_model
from unmix.config import load_config
from unmix.converters import express, interpret
from unmix.converters.containers import wrap
from unmix.converters.families import UNMIX, objections
from unmix.registry import MODELS

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools' / 'model_converters'
NAME = 'unmix-moco_digits'
CONFIG = f'unmix::quickstart/{NAME}'


@pytest.fixture(scope='module')
def weights() -> dict[str, torch.Tensor]:
    return randomise(MODELS.build(load_config(CONFIG).model)).state_dict()


def run(tool: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
    runpy.run_path(str(TOOLS / tool), run_name='__main__')


@pytest.mark.slow
def test_convert_says_what_it_did(weights, tmp_path, monkeypatch, capsys):
    converted = interpret({'state_dict': weights}, 'epoch_3.pth')
    result, tensors = express(converted, 'moco')
    torch.save(wrap(tensors, result.family), tmp_path / 'theirs.pth')
    run('convert.py', monkeypatch, 'auto', tmp_path / 'theirs.pth', tmp_path / 'ours.pth', '--config', CONFIG)
    printed = capsys.readouterr().out
    for text in ('(moco) ->', 'backbone ResNet', 'neck ', 'differ by at most'):
        assert text in printed
    content = torch.load(tmp_path / 'ours.pth', weights_only=True)
    assert all(torch.equal(content['state_dict'][name], weights[name]) for name in weights)
    assert content['meta']['family'] == 'moco'
    assert content['meta']['source_sha256'] == file_hash(tmp_path / 'theirs.pth')

    convert(['unmix', str(tmp_path / 'ours.pth'), str(tmp_path / 'b.pth'), '--backbone-only'])
    assert 'left out' in capsys.readouterr().out
    content = torch.load(tmp_path / 'b.pth', weights_only=True)
    assert content['state_dict'].keys() == {name for name in weights if name.startswith('backbone.')}


@pytest.mark.slow
@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_convert_keeps_mean_and_std(channels, suffix, tmp_path):
    """A model of the converted file prepares an image as that of the file it came from."""
    if suffix == '.safetensors':
        pytest.importorskip('safetensors')
    backbone = dict(type='ResNet', depth=8, width=8, stem='cifar', in_channels=channels)
    preprocessor = dict(type='DataPreprocessor', mean=[51.0] * channels, std=[102.0] * channels)
    state = randomise(MODELS.build(dict(backbone))).state_dict()
    content = dict(state_dict={f'backbone.{name}': x for name, x in state.items()})
    torch.save(
        content | dict(meta=dict(model=dict(backbone=backbone, data_preprocessor=preprocessor))), tmp_path / 'a.pth'
    )
    convert(['unmix', str(tmp_path / 'a.pth'), str(tmp_path / f'b{suffix}')])
    first, second = (unmix.get_model(tmp_path / name) for name in ('a.pth', f'b{suffix}'))
    assert first.pretrained_cfg['data_preprocessor'] == second.pretrained_cfg['data_preprocessor'] == preprocessor
    image = Image.new('RGB', (300, 300), (60, 90, 120))
    x = first.transform(image)
    assert x.shape[0] == channels
    assert torch.equal(x, second.transform(image))
    with torch.no_grad():
        assert torch.equal(first(x[None]), second(x[None]))


@pytest.mark.slow
def test_a_grey_file_that_does_not_say_its_normalisation(tmp_path):
    """ImageNet's, whose three values become one."""
    backbone = dict(type='ResNet', depth=8, width=8, stem='cifar', in_channels=1)
    state = randomise(MODELS.build(dict(backbone))).state_dict()
    content = dict(
        state_dict={f'backbone.{name}': x for name, x in state.items()}, meta=dict(model=dict(backbone=backbone))
    )
    torch.save(content, tmp_path / 'a.pth')
    x = unmix.get_model(tmp_path / 'a.pth').transform(Image.new('L', (300, 300), 200))
    expected = (200 - (123.675 + 116.28 + 103.53) / 3) / ((58.395 + 57.12 + 57.375) / 3)
    torch.testing.assert_close(x, torch.full_like(x, expected))


def test_convert_refuses_a_checkpoint_of_another_config(weights, tmp_path, monkeypatch, capsys):
    torch.save({'state_dict': weights}, tmp_path / 'epoch_3.pth')
    other = ('--config', 'unmix::quickstart/swav_digits')
    with pytest.raises(SystemExit):
        run('convert.py', monkeypatch, 'auto', tmp_path / 'epoch_3.pth', tmp_path / 'out.pth', *other)
    assert 'is a checkpoint of another model' in capsys.readouterr().err
    assert not (tmp_path / 'out.pth').exists()


CONFIGS = sorted((ROOT / 'configs').glob('quickstart/[!u]*_digits.py')) + sorted(
    (ROOT / 'configs').glob('benchmarks/linear*_digits.py')
)


@pytest.mark.parametrize('config', CONFIGS, ids=lambda path: path.stem)
def test_the_names_of_every_method_are_known(config):
    with torch.device('meta'):
        tensors = MODELS.build(load_config(str(config)).model).state_dict()
    assert not objections(UNMIX, tensors)


def copy_config(directory: Path) -> Path:
    """The quickstart's config beside a metafile of its own; it inherits from the project's by name."""
    config = directory / f'{NAME}.py'
    config.write_text(f"_base_ = '{CONFIG}.py'\n")
    entry = '    Metadata:\n      Epochs: 150\n    Results: null\n    Weights: null\n'
    text = f'# A comment.\nModels:\n  - Name: other\n{entry}\n  - Name: {NAME}\n{entry}\n  - Name: last\n{entry}'
    (directory / 'metafile.yml').write_text(text)
    return config


@pytest.mark.slow
def test_publish_strips_names_and_registers(weights, tmp_path, monkeypatch, capsys):
    config = copy_config(tmp_path)
    before = (tmp_path / 'metafile.yml').read_text()
    meta = dict(epoch=150, iter=2100, time='20260102_030405', cfg="work_dir = 'somewhere'")
    torch.save(dict(meta=meta, state_dict=weights, optimizer=dict(state=weights)), tmp_path / 'epoch_150.pth')
    run('publish_model.py', monkeypatch, config, tmp_path / 'epoch_150.pth', tmp_path / 'zoo', '--url', 'https://x/y/')
    (file,) = (tmp_path / 'zoo').iterdir()
    assert capsys.readouterr().out.strip() == str(file)
    digest = file_hash(file)
    assert file.name == f'{NAME}_20260102-{digest[:8]}.pth'
    content = torch.load(file, weights_only=True)
    assert content.keys() == {'meta', 'state_dict'}
    assert {key: content['meta'][key] for key in ('config', 'date', 'epoch', 'iter')} == dict(
        config=NAME, date='20260102', epoch=150, iter=2100
    )
    assert 'somewhere' not in str(content['meta'])
    assert all(torch.equal(content['state_dict'][name], weights[name]) for name in weights)

    after = (tmp_path / 'metafile.yml').read_text()
    entries = {model['Name']: model for model in yaml.safe_load(after)['Models']}
    assert entries[NAME]['Weights'] == f'https://x/y/{file.name}'
    assert entries[NAME]['SHA256'] == digest
    assert entries['other']['Weights'] is None
    assert entries['last']['Weights'] is None
    changed = set(after.splitlines()) - set(before.splitlines())
    assert changed == {f'    Weights: https://x/y/{file.name}', f'    SHA256: {digest}'}

    publish_model(str(config), str(tmp_path / 'epoch_150.pth'), tmp_path / 'zoo')  # again: the entry is replaced
    assert (tmp_path / 'metafile.yml').read_text().count('SHA256') == 1


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (lambda weights: dict(state_dict=dict(list(weights.items())[1:])), 'is a checkpoint of another model'),
        (lambda weights: dict(state_dict=weights | dict(extra=torch.zeros(1))), '1 not in the model: extra'),
        (lambda weights: weights, "has no 'state_dict'"),
    ],
)
def test_publish_refuses_what_is_not_of_the_config(content, message, weights, tmp_path):
    config = copy_config(tmp_path)
    before = (tmp_path / 'metafile.yml').read_text()
    torch.save(content(weights), tmp_path / 'epoch_150.pth')
    with pytest.raises(ValueError, match=message):
        publish_model(str(config), str(tmp_path / 'epoch_150.pth'), tmp_path / 'zoo')
    assert not (tmp_path / 'zoo').exists()
    assert (tmp_path / 'metafile.yml').read_text() == before


def test_publish_refuses_a_metafile_without_the_entry(weights, tmp_path):
    config = copy_config(tmp_path)
    renamed = config.rename(tmp_path / 'unmix-moco_mine.py')
    torch.save(dict(state_dict=weights), tmp_path / 'epoch_150.pth')
    with pytest.raises(ValueError, match=f'no entry "- Name: unmix-moco_mine".*It has other, {NAME}, last'):
        publish_model(str(renamed), str(tmp_path / 'epoch_150.pth'), tmp_path / 'zoo')
    assert not (tmp_path / 'zoo').exists()
