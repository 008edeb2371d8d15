"""The table of the quickstart, from runs that are there already."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

TOOL = Path(__file__).parents[2] / 'tools' / 'benchmarks' / 'quickstart_table.py'


def load_tool() -> Any:
    spec = importlib.util.spec_from_file_location('quickstart_table', TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def finished(directory: Path, accuracies: dict[str, float]) -> None:
    """A run with these accuracies; raw pixels have 50, untrained networks 40."""
    controls = dict(raw_pixels_top1=50.0, random_init_top1=40.0)
    directory.mkdir()
    results = {name: dict(controls, top1=value) for name, value in accuracies.items()}
    (directory / 'results.json').write_text(json.dumps(results))


def test_means_intervals_and_paired_differences(tmp_path, monkeypatch, capsys):
    tool = load_tool()
    for seed, (plain, mixed) in enumerate([(90.0, 92.0), (94.0, 97.0)]):
        for name, value in (('moco', plain), ('unmix-moco', mixed)):
            finished(tmp_path / f'{name}_digits_150e_t1_s{seed}', dict.fromkeys(tool.COLUMNS, value))
    monkeypatch.setattr(tool.subprocess, 'run', None)  # nothing is trained again
    arguments = ['--seeds', '2', '--methods', 'moco', '--no-equal-compute', '--work-dir', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', ['quickstart_table.py', *arguments, '--json', str(tmp_path / 'table.json')])
    tool.main()
    rows = [line.split(' | ')[:2] for line in capsys.readouterr().out.splitlines() if line.startswith('| ')]
    # Of two values a and b the 95 % t-interval is 12.706 |a - b| / 2.
    assert rows[1:] == [
        ['| raw pixels', '50.0 ± 0.0'],
        ['| random initialisation', '40.0 ± 0.0'],
        ['| moco, 150 epochs', '92.0 ± 25.4'],
        ['| moco + Un-Mix, 150 epochs', '94.5 ± 31.8'],
        ['| difference, paired by seed', '2.5 ± 6.4'],
    ]
    report = json.loads((tmp_path / 'table.json').read_text())
    assert report['moco']['moco + Un-Mix, 150 epochs']['knn'] == [92.0, 97.0]


def test_no_method_is_left_out():
    folder = TOOL.parents[2] / 'configs' / 'quickstart'
    stems = {path.stem.removesuffix('_digits') for path in folder.glob('*_digits.py')}
    assert set(load_tool().METHODS) == {stem for stem in stems if f'unmix-{stem}' in stems}
