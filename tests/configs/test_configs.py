"""Each config is complete, built, named by the scheme and listed in a metafile."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from pages import blocks
from torch.utils.flop_counter import FlopCounterMode

from unmix.config import config_root, load_config
from unmix.registry import MODELS

ROOT = config_root()
LEAVES = sorted(path for path in ROOT.rglob('*.py') if '_base_' not in path.parts)
METAFILES = sorted(ROOT.rglob('metafile.yml'))
# {method}_{backbone}_{gpus}xb{batch}-{schedule}-{epochs}e_{data}
NAME = re.compile(r'(unmix-)?[a-z0-9-]+_[a-z0-9-]+_\d+xb\d+-[a-z]+(-[a-z]+)*-\d+e_[a-z0-9-]+')
SHORT_NAME = re.compile(r'(unmix-)?[a-z0-9-]+_[a-z0-9-]+')  # {method}_{data}: quickstart, frozen features


SIDES = {'in1k': 224, 'in100': 224, 'cifar10': 32, 'cifar100': 32, 'stl10': 64, 'tiny-imagenet': 64}
SIDES |= {'digits': 16, 'fashion-mnist': 28, 'folder': 64}


@cache
def load(path: Path) -> Config:
    return load_config(str(path))


def costs(backbone: dict, side: int) -> tuple[int, int]:
    """Multiply-adds of one image, and parameters."""
    with torch.device('meta'), torch.no_grad():
        net = MODELS.build(backbone).eval()
        with FlopCounterMode(display=False) as counter:
            channels = sum(net.channels) if hasattr(net, 'channels') else backbone.get('in_channels', 3)
            net(torch.empty(1, channels, side, side))
    return counter.get_total_flops() // 2, sum(parameter.numel() for parameter in net.parameters())


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.slow
@pytest.mark.parametrize('path', LEAVES, ids=name_of)
def test_config_is_complete(path: Path) -> None:
    """Types and arguments are checked by load_config; the model builds (without memory) from what it says."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    assert ast.get_docstring(tree), 'a config begins with its source, command and numbers'
    assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree)), 'not a text config'
    scheme = SHORT_NAME if path.parent.name == 'quickstart' or path.stem.startswith(('knn-', 'frozen-')) else NAME
    assert scheme.fullmatch(path.stem)
    cfg = load(path)
    with torch.device('meta'):
        MODELS.build(cfg.model)
    assert cfg.default_scope == 'unmix'


@pytest.mark.parametrize('path', LEAVES, ids=name_of)
def test_command_in_docstring_names_the_config(path: Path) -> None:
    for command in re.findall(r'^(?:python|bash) tools/\S+ (\S+\.py)', path.read_text(encoding='utf-8'), re.MULTILINE):
        assert ROOT.parent / command == path


@pytest.mark.slow
@pytest.mark.parametrize('name', ['my_recipe.py', 'my_change.py'])
def test_configs_of_the_page(name: str, tmp_path: Path) -> None:
    """The examples of docs/configs.md are complete; options reach a list that a base and a recipe made together."""
    (code,) = blocks('configs.md', name)
    (tmp_path / name).write_text(code)
    options = {'data_root': '/data', 'train_dataloader.dataset.pipeline.transforms.0.size': 96}
    cfg = load_config(str(tmp_path / name), options)
    with torch.device('meta'):
        MODELS.build(cfg.model)
    crop, *rest = cfg.train_dataloader.dataset.pipeline.transforms
    assert crop == dict(type='RandomResizedCrop', size=96, scale=(0.2, 1.0))
    names = ['RandomApply', 'RandomGrayscale', 'RandomApply', 'RandomHorizontalFlip']
    assert [transform.type for transform in rest] == names
    data = [cfg.train_dataloader.dataset, cfg.val_dataloader.dataset, cfg.val_cfg.bank_dataloader.dataset]
    assert [(dataset.data_root, dataset.class_list) for dataset in data] == [('/data', 'imagenet100.txt')] * 3


def test_recipes_are_at_most_two_files_from_the_bases() -> None:
    for path in LEAVES:
        text, depth = path.read_text(), 0
        while match := re.search(r"^_base_ = '(?!.*/_base_/)(.*)'$", text, re.MULTILINE):
            path, depth = path.parent / match[1], depth + 1
            text = path.read_text()
        assert depth <= 2, f'{path.name} is inherited over {depth} files'


def test_twins_are_short() -> None:
    for path in LEAVES:
        if path.name.startswith('unmix-') and (path.parent / path.name.removeprefix('unmix-')).is_file():
            assert 2 <= len(path.read_text().splitlines()) <= 5, path.name


@pytest.mark.slow
def test_names_match_the_numbers() -> None:
    for path in LEAVES:
        match = re.search(r'_(\d+)xb(\d+)-.*-(\d+)e_', path.name)
        if match:
            cfg = load(path)
            processes, batch_size, epochs = map(int, match.groups())
            assert cfg.train_dataloader.batch_size == batch_size, path.name
            assert cfg.train_cfg.max_epochs == epochs, path.name
            assert cfg.auto_scale_lr.base_batch_size == processes * batch_size, path.name


def test_index_imports_every_metafile() -> None:
    index = yaml.safe_load((ROOT.parent / 'model-index.yml').read_text())
    assert sorted(index['Import']) == sorted(str(path.relative_to(ROOT.parent)) for path in METAFILES)


@pytest.mark.parametrize('metafile', METAFILES, ids=name_of)
@pytest.mark.slow
def test_metafile(metafile: Path) -> None:
    """One collection; each config of the folder once; numbers are the config's; no result without its source."""
    content = yaml.safe_load(metafile.read_text(encoding='utf-8'))
    (collection,) = content['Collections']
    assert (ROOT.parent / collection['README']).is_file()
    assert collection['Paper']['Title']
    assert collection['Paper']['URL'].startswith('https://arxiv.org/abs/')
    configs = [model['Config'] for model in content['Models']]
    folder = metafile.parent
    assert sorted(configs) == sorted(str(p.relative_to(ROOT.parent)) for p in LEAVES if p.parent == folder)
    for model in content['Models']:
        assert Path(model['Config']).stem == model['Name']
        assert model['In Collection'] == collection['Name']
        cfg = load(ROOT.parent / model['Config'])
        metadata = model['Metadata']
        assert metadata['Epochs'] == cfg.train_cfg.max_epochs
        processes = int(match[1]) if (match := re.search(r'_(\d+)xb', model['Name'])) else 1
        assert metadata['Batch Size'] == processes * cfg.train_dataloader.batch_size
        side = SIDES[model['Name'].rsplit('_', 1)[1]]
        assert (metadata['FLOPs'], metadata['Parameters']) == costs(cfg.model.backbone, side)
        for result in model['Results'] or []:
            assert all('published' in name for name in result['Metrics']) is result['Published']
            if result['Published']:
                assert result['Source'].startswith('https://')
            else:
                assert re.search(r'seed.* \d.* n = \d.*(CPU|GPU|Xeon)', result['Source'])


def test_every_config_is_in_a_metafile() -> None:
    folders = {path.parent for path in LEAVES} - {ROOT / 'benchmarks'}  # protocols, not models
    assert folders == {path.parent for path in METAFILES}


@pytest.mark.parametrize(('name', 'tensors'), [
    ('moco/moco-sym_resnet18_1xb512-coslr-1000e_cifar10', 246),
    ('wmse/wmse2_resnet18_1xb512-steplr-1000e_cifar10', 129),
    ('simclr/simclr_resnet18_1xb512-steplr-1000e_cifar10', 134),
    ('byol/byol_resnet18_1xb512-steplr-1000e_cifar10', 267),
])  # fmt: skip
def test_models_have_as_many_tensors_as_the_published_files(name: str, tensors: int) -> None:
    with torch.device('meta'):
        assert len(MODELS.build(load(ROOT / f'{name}.py').model).state_dict()) == tensors


def test_swav_on_cifar_has_the_published_size() -> None:
    with torch.device('meta'):
        model = MODELS.build(load(ROOT / 'swav/swav_resnet26_1xb128-coslr-400e_cifar10.py').model)
    assert sum(parameter.numel() for parameter in model.parameters()) == 15067072


def test_types_of_mmcv_do_not_hide_ours() -> None:
    """MMCV registers transforms of the same names, with other arguments, as soon as anything imports it."""
    pytest.importorskip('mmcv.transforms')
    load_config('unmix::moco/moco-sym_resnet18_1xb512-coslr-1000e_cifar10.py')
