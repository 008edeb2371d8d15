"""No fixture lies in the directory without a test, and no test waits for a fixture that is not there."""

import ast
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from fixtures import Golden, matches, read_index

HERE = Path(__file__).parent


@cache
def markers() -> list[list[str]]:
    """The patterns of each ``@pytest.mark.golden`` beside this file."""
    return [
        [ast.literal_eval(argument) for argument in node.args]
        for path in sorted(HERE.glob('test_golden_*.py'))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == 'pytest.mark.golden'
    ]


def test_every_fixture_has_a_test(request: pytest.FixtureRequest) -> None:
    """Each file of the index is there and asked for by a marker; every marker of the suite finds a file here."""
    own = HERE / 'data'
    directory = Path(request.config.getoption('--golden') or own)
    entries = json.loads((directory / 'index.json').read_text())
    assert {entry['file'] for entry in entries} == {path.name for path in directory.glob('*.npz')}
    untested = [entry['file'] for entry in entries if not any(matches(entry, patterns) for patterns in markers())]
    assert not untested, f'no test has @pytest.mark.golden for {untested}'
    if directory == own:
        assert len(entries) == 69
        assert all(any(matches(entry, patterns) for entry in entries) for patterns in markers())


@pytest.mark.slow
def test_device_of_fixtures() -> None:
    """Inputs are on the device asked for; only there the tolerance is derived, where that of the index is less."""
    for entry in read_index(HERE / 'data'):
        for dtype in Golden.dtypes(entry):
            cpu, device = (Golden(HERE / 'data', entry, dtype, torch.device(name)) for name in ('cpu', 'meta'))
            recorded = entry['tol32'] if dtype == torch.float32 else entry['tol64'] or 1e-12
            assert cpu.tolerance == recorded
            assert recorded <= device.tolerance <= (4e-2 if dtype == torch.float32 else recorded + 1e-11)
            name = next(iter(device.arrays))
            assert device.tensor(name).device.type == 'meta'
            assert cpu.tensor(name).device.type == 'cpu'
