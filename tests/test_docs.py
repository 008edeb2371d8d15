"""Every method has its page and recipes with twins; links, names, paths, commands and figures are true."""

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from mmengine.runner import get_priority
from test_layout import LEVELS

from unmix.checkpoint.data import DataRecord
from unmix.checkpoint.identity import RunHistory
from unmix.checkpoint.resume import StepRemainder
from unmix.compat import CHANGES, REPLACED
from unmix.config import load_config
from unmix.models import BaseHead
from unmix.registry import HOOKS

ROOT = Path(__file__).parents[1]
METHODS = sorted(path.parent for path in (ROOT / 'configs').glob('*/metafile.yml') if path.parent.name != 'quickstart')
PAGES = {folder.name: ROOT / 'docs' / f'{folder.name}.md' for folder in METHODS}
PAGES['image-mixture'] = ROOT / 'docs' / 'image_mixture.md'
TEXTS = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *ROOT.glob('configs/*/README.md')])
INDEX = json.loads((ROOT / 'tests' / 'golden' / 'data' / 'index.json').read_text())
FIXTURES = {entry['file'].removesuffix('.npz'): entry for entry in INDEX}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize('folder', METHODS, ids=name_of)
def test_page_of_a_method(folder: Path) -> None:
    """Page, recipes and the two indices refer to each other."""
    page = PAGES[folder.name]
    assert f'../configs/{folder.name}/README.md' in page.read_text()
    assert f'../../docs/{page.name}' in (folder / 'README.md').read_text()
    assert f'({page.name})' in (ROOT / 'docs' / 'README.md').read_text()
    assert f'(docs/{page.name})' in (ROOT / 'README.md').read_text()


@pytest.mark.parametrize('folder', METHODS, ids=name_of)
def test_recipes_of_a_method(folder: Path) -> None:
    """A twin for each; a published figure stands in metafile, README and config alike."""
    readme, published = (folder / 'README.md').read_text(), {}
    for model in yaml.safe_load((folder / 'metafile.yml').read_text())['Models']:
        metrics = [result['Metrics'].values() for result in model['Results'] or []]
        published[model['Name']] = [str(figure) for figures in metrics for figure in figures]
    for name, figures in published.items():
        twin = name.removeprefix('unmix-') if name.startswith('unmix-') else f'unmix-{name}'
        assert twin in published, f'{name} has no twin'
        docstring = (folder / f'{name}.py').read_text().split('"""')[1]
        for figure in figures:
            number = rf'(?<![\d.]){re.escape(figure)}0*(?!\d)'  # 66.6 is 66.60
            assert re.search(number, docstring), f'{name}: the docstring lacks {figure}'
            assert re.search(number, readme), f'{folder.name}/README.md lacks {figure} of {name}'
        assert f'{name}.py' in readme or f'{twin}.py' in readme, f'{folder.name}/README.md does not name {name}'


def parity_rows() -> list[tuple[Path, list[str], list[str]]]:
    """Page, fixtures and cells of each row of the parity tables that names fixtures."""
    rows = []
    for page in PAGES.values():
        for line in page.read_text().splitlines():
            names = re.findall(r'`(c\d\d_\w+)`', line)
            if line.startswith('|') and names:
                rows.append((page, names, [cell.strip() for cell in line.strip('|').split('|')]))
    return rows


def test_every_fixture_is_in_a_parity_table() -> None:
    assert {name for _, names, _ in parity_rows() for name in names} == FIXTURES.keys()


def test_parity_tables_state_the_tolerances_of_the_tests() -> None:
    """And differences below them."""
    for page, names, cells in parity_rows():
        where = f'{name_of(page)}: {", ".join(names)}'
        assert len(cells) == 6, where
        for column, key in ((2, 'tol64'), (4, 'tol32')):
            allowed = {FIXTURES[name][key] or 1e-12 for name in names if FIXTURES[name][key] is not None} | {0.0}
            stated = [float(value.replace('exact', '0')) for value in cells[column].split(', ') if value]
            assert all(
                any(value == pytest.approx(tolerance, rel=1e-6, abs=0) for tolerance in allowed) for value in stated
            ), where
            assert (cells[column] == '') == (cells[column + 1] == ''), where
            if stated:
                assert float(cells[column + 1].replace('exact', '0')) <= max(stated), where


@pytest.mark.parametrize('text', TEXTS, ids=name_of)
def test_links_lead_somewhere(text: Path) -> None:
    for target in re.findall(r'\]\(([^)\s]+)\)', text.read_text(encoding='utf-8')):
        if not target.startswith(('http', '#', 'mailto:')):
            assert (text.parent / target.split('#')[0]).exists(), f'{name_of(text)} links to {target}'


@pytest.mark.parametrize('text', TEXTS, ids=name_of)
def test_no_line_begins_with_a_mark_before_text(text: Path) -> None:
    """Markdown takes such a line for HTML as a whole: it ends the paragraph, and links and code in it stay as typed."""
    assert re.findall(r'(?m)^ *<!-- results: [^>\n]*-->[^\n]*<!-- /results -->.*', text.read_text()) == []


@pytest.mark.parametrize('text', TEXTS, ids=name_of)
def test_commands_name_files_that_exist(text: Path) -> None:
    """The tool of each command, and the configs of this project that it is given."""
    content = re.sub(r'\\\n\s*', '', text.read_text(encoding='utf-8'))
    for command in re.findall(r'^(?:\w+=\S+ )*(?:python|bash) tools/.*', content, re.MULTILINE):
        for path in re.findall(r'(?<![\w/.])(?:tools|configs)/[\w./-]+\.(?:py|sh)\b', command):
            assert (ROOT / path).is_file(), f'{name_of(text)}: {path}, in the command {command}'


@pytest.mark.parametrize('text', TEXTS, ids=name_of)
def test_python_blocks_are_python(text: Path) -> None:
    for block in re.findall(r'^```python\n(.*?)^```', text.read_text(encoding='utf-8'), re.MULTILINE | re.DOTALL):
        compile(block, name_of(text), 'exec')


# What the texts say of the code. The changelog tells of names that are gone.
SAYS = [text for text in TEXTS if text.name != 'CHANGELOG.md']


def spans(text: str) -> set[str]:
    """Return what stands in single backticks, outside of code blocks."""
    return set(
        re.findall(r'(?<!`)`([^`\n]+)`(?!`)', re.sub(r'^\s*```.*?^\s*```', '', text, flags=re.MULTILINE | re.DOTALL))
    )


def resolve(module: str, name: str) -> None:
    """Import a module and look a dotted name up in it; an attribute may be annotated only.

    Raises:
        ImportError, AttributeError: If it is not there.
    """
    found: Any = importlib.import_module(module)
    for part in name.split('.') if name else ():
        if inspect.ismodule(found) and not hasattr(found, part):
            found = importlib.import_module(f'{found.__name__}.{part}')
        elif part not in getattr(found, '__annotations__', {}):
            found = getattr(found, part)


def wrong_names(text: str) -> list[str]:
    """Return the names in a text, written as ``unmix.some.thing``, that cannot be imported."""
    wrong = []
    for span in sorted(spans(text)):
        name = re.fullmatch(r'(unmix(?:\.[A-Za-z_]\w*)+)(?:\(.*\))?', span)
        if name and name[1] not in CONFIG_KEYS:
            try:
                resolve('unmix', name[1].removeprefix('unmix.'))
            except (ImportError, AttributeError):
                wrong.append(name[1])
    return wrong


def wrong_links(text: str, folder: Path) -> list[str]:
    """Return links whose text is a name, or a file's name, that is not in the source file that they lead to."""
    wrong = []
    for name, target in re.findall(r'\[`([\w.]+)`\]\(([^)\s#]+\.py)\)', text):
        path = (folder / target).resolve()
        if name in (path.name, path.parent.name) or not path.is_relative_to(ROOT / 'unmix'):
            continue
        module = '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
        try:
            resolve(module, '' if name == module else name)
        except (ImportError, AttributeError):
            wrong.append(f'{name} in {target}')
    return wrong


def wrong_paths(text: str) -> list[str]:
    """Return paths of this project, in single backticks, where nothing is."""
    paths = [span for span in spans(text) if re.fullmatch(r'(?:unmix|tests|tools|docs|configs)/[\w./-]+', span)]
    return sorted(path for path in paths if 'NAME' not in path and not (ROOT / path).exists() and path not in MADE)


CONFIG_KEYS = {'unmix.loss_weight', 'unmix.replay_bn_stats', 'unmix.lam_policy'}  # of a model
MADE = {'unmix/.mim'}  # by an install


@pytest.mark.parametrize('text', SAYS, ids=name_of)
def test_names_of_the_code_exist(text: Path) -> None:
    content = text.read_text(encoding='utf-8')
    assert wrong_names(content) == []
    assert wrong_links(content, text.parent) == []
    assert wrong_paths(content) == []


def test_a_name_that_is_gone_is_found() -> None:
    docs = ROOT / 'docs'
    assert wrong_names('`unmix.models.MoCo`, `unmix.get_model(name)`, `unmix.models.BaseAlgorithm.head`') == []
    assert wrong_names('see `unmix.models.Journal` and `unmix.journal`') == ['unmix.journal', 'unmix.models.Journal']
    assert wrong_links('[`Gone`](../unmix/engine/step.py), [`TrainStep.run`](../unmix/engine/step.py)', docs) == [
        'Gone in ../unmix/engine/step.py'
    ]
    assert wrong_paths('`unmix/journal.py`, `unmix/engine/step.py`') == ['unmix/journal.py']


def table(text: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table under a heading, without its head, as cells."""
    section = text.split(f'\n## {heading}\n')[1].split('\n## ')[0]
    rows = [line for line in section.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in row.strip('|').split('|')] for row in rows[2:]]


ARCHITECTURE = (ROOT / 'docs' / 'architecture.md').read_text()


def test_architecture_lists_what_a_head_is_asked_for() -> None:
    stated = [re.match(r'`(\w+)', row[0])[1] for row in table(ARCHITECTURE, 'The interface of a head')]
    assert sorted(stated) == sorted(name for name in vars(BaseHead) if not name.startswith('_'))


def test_architecture_lists_the_hooks_in_their_order() -> None:
    """MMEngine keeps the order of the config among hooks of one priority."""
    runtime = load_config('_base_/default_runtime.py')
    configured = [hook['type'] for hook in [*runtime.default_hooks.values(), *runtime.custom_hooks]]
    ranked = sorted(configured, key=lambda name: get_priority(HOOKS.get(name).priority))
    stated = {row[0].strip('`'): row[1] for row in table(ARCHITECTURE, 'Hooks')}
    of_loop = {hook.__name__: hook for hook in (StepRemainder, DataRecord, RunHistory)}
    assert of_loop.keys() <= stated.keys()
    assert [name for name in stated if name in configured] == ranked
    for name, priority in stated.items():
        hook = of_loop.get(name) or HOOKS.get(name)
        assert get_priority(hook.priority) == get_priority(priority), f'{name} has the priority {hook.priority}'


def test_architecture_lists_the_rooms() -> None:
    stated = {name for row in table(ARCHITECTURE, 'Rooms') for name in re.findall(r'`(\w+)`', row[0])} - {'unmix'}
    modules = {path.stem for path in (ROOT / 'unmix').glob('*.py')} - {'__init__', 'version'}
    assert stated == modules | {path.parent.name for path in (ROOT / 'unmix').glob('*/__init__.py')}
    levels = re.search(r'```\n(registry, .*?)```', ARCHITECTURE, re.DOTALL)[1].splitlines()
    assert [set(line.split(', ')) for line in levels] == LEVELS


def test_architecture_lists_the_changes_of_mmengine() -> None:
    section = ARCHITECTURE.split('\n## What changes in MMEngine\n')[1]
    assert len(table(ARCHITECTURE, 'What changes in MMEngine')) == len(CHANGES)
    assert all(f'`{name}`' in section for name in REPLACED)


@pytest.mark.parametrize('text', SAYS, ids=name_of)
def test_configs_are_shown_as_they_are(text: Path) -> None:
    """A block that begins with the path of a config of this project is that file, less its docstring."""
    for path, block in re.findall(
        r'^```python\n# (configs/\S+\.py)\n(.*?)^```', text.read_text(encoding='utf-8'), re.MULTILINE | re.DOTALL
    ):
        assert block.strip() == re.sub(r'^""".*?"""', '', (ROOT / path).read_text(), flags=re.DOTALL).strip(), path


def test_missing_packages_are_named_by_an_extra() -> None:
    """Each extra that is named is in setup.py, and messages name no optional package by a name of its own."""
    setup = (ROOT / 'setup.py').read_text()
    extras = setup[setup.index('extras_require') :]
    files = [*TEXTS, *ROOT.glob('unmix/**/*.py'), *ROOT.glob('tools/**/*.py')]
    words = {(name_of(file), name) for file in files for name in re.findall(r"'unmix\[([\w,-]+)\]'", file.read_text())}
    assert len(words) > 10
    for file, names in words:
        assert all(f"'{name}'" in extras for name in names.split(',')), f'{file} names unmix[{names}]'
    optional = set(re.findall(r"'([\w-]+)>=", extras))
    for file in ROOT.glob('unmix/**/*.py'):
        named = set(re.findall(r'pip install ([\w-]+)', file.read_text()))
        assert not named & optional, f'{name_of(file)}: pip install {named & optional}'
