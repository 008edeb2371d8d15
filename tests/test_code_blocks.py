"""Code on the pages runs, or is a part of a config with true keys; commands are those of their parsers."""

import argparse
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from unmix.apis.compare import compare
from unmix.apis.convert import convert
from unmix.apis.doctor import doctor
from unmix.apis.export import export
from unmix.apis.features import features
from unmix.apis.report import report
from unmix.apis.runs import runs
from unmix.apis.train import evaluate, train
from unmix.apis.zoo_commands import download, list_entries
from unmix.checkpoint.load import load_from_local
from unmix.checkpoint.save import save_checkpoint
from unmix.config import find_config, load_config
from unmix.config.check import check_arguments, dicts, find_type

ROOT = Path(__file__).parents[1]
TEXTS = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *ROOT.glob('configs/*/README.md')])
NAMED = re.compile(r'# (?:configs/\S+|[\w./-]+\.py)\n')  # run by the test of its page
PROGRAM = re.compile(r'import |from ')
COMMAND = re.compile(r'^ *(?:\w+=\S+ )*(unmix (\w+)|python tools/(\S+)\.py) (.*)')
COMMANDS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(('train', 'tools/train'), train),
    **dict.fromkeys(('test', 'tools/test'), evaluate),
    **dict.fromkeys(('convert', 'model_converters/convert'), convert),
    'export': export,
    **{'report': report, 'compare': compare, 'runs': runs},
    **{'features': features, 'list': list_entries, 'download': download, 'doctor': doctor},
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: Path, language: str) -> list[str]:
    found = re.findall(r'^ *```(\w*)\n(.*?)^ *```$', text.read_text(encoding='utf-8'), re.MULTILINE | re.DOTALL)
    return [block for its, block in found if its == language]


PROGRAMS = {text: [block for block in blocks(text, 'python') if PROGRAM.match(block)] for text in TEXTS}
PROGRAMS = {text: programs for text, programs in PROGRAMS.items() if programs}


@pytest.fixture(scope='module')
def resnet50(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backbone as the command of the page writes it."""
    folder = tmp_path_factory.mktemp('convert')
    state = torchvision.models.resnet50().state_dict()
    torch.save({f'backbone.{key}': state[key] for key in state if key[:3] != 'fc.'}, folder / 'epoch.pth')
    convert(['unmix', f'{folder}/epoch.pth', f'{folder}/resnet50.pth', '--to', 'torchvision', '--backbone-only'])
    return folder / 'resnet50.pth'


@pytest.fixture
def reader(tmp_path: Path, resnet50: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a reader: images, a run of the digits, a backbone for torchvision."""
    for number in range(12):
        path = tmp_path / 'images' / f'class-{number % 2}' / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8)).save(path)
    (weights,) = (ROOT / 'configs' / 'quickstart' / 'weights').glob('unmix-moco_digits*')
    cfg, run = load_config('quickstart/unmix-moco_digits'), tmp_path / 'work_dirs' / 'NAME'
    content = load_from_local(str(weights)) | dict(meta=dict(cfg=cfg.pretty_text))
    save_checkpoint(content, str(run / 'epoch_200.pth'))
    cfg.dump(run / 'NAME.py')
    shutil.copyfile(resnet50, tmp_path / 'resnet50.pth')
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures('reader')
@pytest.mark.parametrize('text', PROGRAMS, ids=name_of)
def test_programs_run(text: Path) -> None:
    """One after the other, as a reader types them."""
    names: dict[str, Any] = {'images': torch.zeros(2, 3, 64, 64)}  # a batch, where a page does not say which
    for number, block in enumerate(PROGRAMS[text]):
        exec(compile(block, f'{name_of(text)}, program {number}', 'exec'), names)


FRAGMENTS = [
    (text, block)
    for text in TEXTS
    for block in blocks(text, 'python')
    if not NAMED.match(block) and not PROGRAM.match(block) and not block.startswith('torch.hub')
]


@pytest.mark.parametrize(('text', 'block'), FRAGMENTS, ids=[name_of(text) for text, _ in FRAGMENTS])
def test_parts_of_configs_have_true_keys(text: Path, block: str) -> None:
    base = SimpleNamespace(augmentation=[], train_dataloader=SimpleNamespace(dataset={}))
    names: dict[str, Any] = dict(_base_=base, large=[], small=[])  # what the rest of such a config has
    exec(compile(block, name_of(text), 'exec'), names)
    check_types({key: value for key, value in names.items() if key[:2] != '__'})


def check_types(part: dict[str, Any]) -> None:
    """Check what has a type in a part of a config; the rest is in its base."""
    for path, node in dicts(part):
        if 'type' in node:
            function, registry = find_type(node['type'])
            assert function is not None, f'{path}: {node["type"]} is not registered'
            check_arguments(path, node, function, registry)


def test_a_false_key_is_found() -> None:
    with pytest.raises(ValueError, match='momentm'):
        check_types(dict(model=dict(type='MoCo', momentm=0.9)))


def commands(text: Path) -> list[tuple[str, list[str]]]:
    """Return the commands in the plain blocks of a text, each with its words."""
    found = []
    for block in blocks(text, ''):
        for line in re.sub(r'\\\n\s*', '', block).splitlines():
            match = COMMAND.match(line.rpartition(' && ')[2])
            name = match and (match[2] or ('tools/' + match[3] if '/' not in match[3] else match[3]))
            if match and name in COMMANDS:
                words = shlex.split(match[4], comments=True)
                found.append((name, words[: words.index('|')] if '|' in words else words))
    return found


class Parsed(Exception):
    """What a parser has read."""


ALL_COMMANDS = [(text, name, words) for text in TEXTS for name, words in commands(text)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('text', 'name', 'words'), ALL_COMMANDS, ids=[f'{name_of(text)}: {name}' for text, name, _ in ALL_COMMANDS]
)
def test_commands_are_read(text: Path, name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Their arguments, their configs and the options for these; what stands for the reader's is left out."""

    def raises(read: Callable[..., Any]) -> Callable[..., None]:
        def parse(*args: Any) -> None:
            raise Parsed(read(*args))

        return parse

    for method in ('parse_args', 'parse_intermixed_args'):
        monkeypatch.setattr(argparse.ArgumentParser, method, raises(getattr(argparse.ArgumentParser, method)))
    with pytest.raises(Parsed) as caught:
        COMMANDS[name](words)
    args = vars(caught.value.args[0])
    config = args.get('config')
    if config and not re.search(r'[A-Z]|^my_|^work_dirs/', config):
        load_config(str(find_config(config)), args.get('cfg_options'))


def test_most_commands_are_found() -> None:
    assert len(ALL_COMMANDS) > 40
    assert {name for _, name, _ in ALL_COMMANDS} >= {'train', 'tools/train', 'test', 'features', 'list', 'download'}
