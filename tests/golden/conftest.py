"""Golden numbers: one test for each fixture file in ``--golden DIR`` (default: ``data`` beside this file).

The directory holds ``index.json`` (file, hp, arrays, tolerances) and the arrays as .npz. A test asks for the argument
``golden`` and names its files by ``@pytest.mark.golden('c03_*')``; it is generated for every file of the index
that matches, so any other set in the same layout runs as well. Shapes and hyper-parameters come from the fixture.

``--device cuda`` puts fixtures and models on an accelerator, without TensorFloat-32. Tests of several ranks stay on the
CPU: their process groups are gloo's.
"""

from pathlib import Path

import pytest
import torch
from fixtures import Golden, matches, read_index

DATA = Path(__file__).parent / 'data'


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line('markers', 'golden(pattern, ...): run for each fixture file that matches')
    name = config.getoption('--device')
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise pytest.UsageError(f'--device is {name!r}, which is not here: {str(error).splitlines()[0]}') from None
    if name != 'cpu':  # its products have 10 bits, which no tolerance allows for
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker('golden')
    if marker is None:
        return
    directory = Path(metafunc.config.getoption('--golden') or DATA)
    several = metafunc.definition.get_closest_marker('ranks') is not None
    device = torch.device('cpu' if several else metafunc.config.getoption('--device'))
    entries = [entry for entry in read_index(directory) if matches(entry, marker.args)]
    cases = [Golden(directory, entry, dtype, device) for entry in entries for dtype in Golden.dtypes(entry)]
    metafunc.parametrize('golden', cases, ids=str)
