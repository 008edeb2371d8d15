"""Golden numbers: one test for each fixture file in ``--golden DIR`` (default: ``data`` beside this file).

The directory holds ``index.json`` (file, hp, arrays, tolerances) and the arrays as .npz. A test asks for the argument
``golden`` and names its files by ``@pytest.mark.golden('c03_*')``; it is generated for every file of the index
that matches, so any other set in the same layout runs as well. Shapes and hyper-parameters come from the fixture.
"""

from pathlib import Path

import pytest
from fixtures import Golden, matches, read_index

DATA = Path(__file__).parent / 'data'


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line('markers', 'golden(pattern, ...): run for each fixture file that matches')


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker('golden')
    if marker is None:
        return
    directory = Path(metafunc.config.getoption('--golden') or DATA)
    entries = [entry for entry in read_index(directory) if matches(entry, marker.args)]
    cases = [Golden(directory, entry, dtype) for entry in entries for dtype in Golden.dtypes(entry)]
    metafunc.parametrize('golden', cases, ids=str)
