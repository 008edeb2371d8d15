"""Every method has its page and recipes with twins; links, paths, commands and figures of the texts are true."""

import json
import re
from pathlib import Path

import pytest
import yaml

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
    for target in re.findall(r'\]\(([^)\s]+)\)', text.read_text()):
        if not target.startswith(('http', '#', 'mailto:')):
            assert (text.parent / target.split('#')[0]).exists(), f'{name_of(text)} links to {target}'


@pytest.mark.parametrize('text', TEXTS, ids=name_of)
def test_commands_name_files_that_exist(text: Path) -> None:
    """The tool of each command, and the configs of this project that it is given."""
    content = re.sub(r'\\\n\s*', '', text.read_text())
    for command in re.findall(r'^(?:\w+=\S+ )*(?:python|bash) tools/.*', content, re.MULTILINE):
        for path in re.findall(r'(?<![\w/.])(?:tools|configs)/[\w./-]+\.(?:py|sh)\b', command):
            assert (ROOT / path).is_file(), f'{name_of(text)}: {path}, in the command {command}'


@pytest.mark.parametrize('text', TEXTS, ids=name_of)
def test_python_blocks_are_python(text: Path) -> None:
    for block in re.findall(r'^```python\n(.*?)^```', text.read_text(), re.MULTILINE | re.DOTALL):
        compile(block, name_of(text), 'exec')
