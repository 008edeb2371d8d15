"""The workflows and templates of .github are what GitHub reads, and the oldest dependencies are those of setup.py."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted(ROOT.glob('.github/workflows/*.yml'))
FORMS = sorted(path for path in ROOT.glob('.github/ISSUE_TEMPLATE/*.yml') if path.stem != 'config')


@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda path: path.stem)
def test_workflow(path: Path) -> None:
    """It loads, may write nothing by default, and the files and tests that its commands name exist."""
    content = yaml.safe_load(path.read_text(encoding='utf-8'))
    assert content['permissions'] == {'contents': 'read'}
    for job in content['jobs'].values():
        assert job['timeout-minutes'] > 0
        assert all(('run' in step) != ('uses' in step) for step in job['steps'])
    for name in re.findall(r'(?:tests|unmix|\.github)/[\w./-]+\.(?:py|txt|yml)', path.read_text(encoding='utf-8')):
        assert (ROOT / name).is_file(), name


@pytest.mark.parametrize('path', FORMS, ids=lambda path: path.stem)
def test_issue_form(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding='utf-8'))
    assert {'name', 'description', 'body'} <= form.keys()
    identifiers = [part['id'] for part in form['body']]
    assert len(set(identifiers)) == len(identifiers)


def test_oldest_dependencies_are_the_bounds_of_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, list[str]] = {}
    monkeypatch.setattr('setuptools.setup', lambda **options: asked.update(options))
    monkeypatch.delenv('UNMIX_MM', raising=False)
    monkeypatch.setattr(sys, 'argv', ['setup.py'])
    runpy.run_path(str(ROOT / 'setup.py'))
    bounds = dict(re.match(r'([\w-]+)>=([\d.]+)', requirement).groups() for requirement in asked['install_requires'])
    lines = [line for line in (ROOT / '.github' / 'oldest.txt').read_text().splitlines() if not line.startswith('#')]
    oldest = dict(line.split('==') for line in lines)
    assert oldest.keys() == bounds.keys()
    for name, version in oldest.items():
        assert version.removesuffix('.*') == bounds[name], name
