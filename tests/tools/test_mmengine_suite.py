"""The comparison of MMEngine's tests with and without ``unmix``."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / 'tools' / 'misc' / 'mmengine_suite.py'
TESTS = """
import sys
import pytest

def test_that_fails_in_any_case():
    assert False

def test_that_passes():
    import mmengine

def test_that_unmix_breaks():
    assert 'unmix' not in sys.modules

def test_that_unmix_mends():
    assert 'unmix' in sys.modules

@pytest.mark.skipif('unmix' in sys.modules, reason='')
def test_that_unmix_skips():
    pass

@pytest.fixture
def broken():
    assert 'unmix' not in sys.modules

def test_whose_fixture_unmix_breaks(broken):
    pass
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_tests_that_are_worse_with_unmix_are_listed(tmp_path: Path):
    (tmp_path / 'tests').mkdir()
    (tmp_path / 'tests' / 'test_one.py').write_text(TESTS, encoding='utf-8')
    done = run(tmp_path, 'tests')
    assert done.returncode == 1, done.stderr
    summary, *lines = done.stdout[done.stdout.index('6 tests') :].splitlines()
    assert summary == '6 tests, 4 pass without unmix, 3 are worse with it'
    assert lines == [
        'tests.test_one.test_that_unmix_breaks: passed without, failed with unmix',
        'tests.test_one.test_that_unmix_skips: passed without, skipped with unmix',
        'tests.test_one.test_whose_fixture_unmix_breaks: passed without, error with unmix',
    ]
    assert run(tmp_path, 'tests/test_one.py::test_that_passes').returncode == 0


@pytest.mark.slow
def test_a_folder_without_tests(tmp_path: Path):
    done = run(tmp_path)
    assert done.returncode == 1
    assert f'{tmp_path} has no tests/test_config, ' in done.stderr
    assert 'Traceback' not in done.stderr
