"""The benchmark on small folders: its data, and its table from runs that are there already."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from unmix.datasets.survey import survey

TOOL = Path(__file__).parents[2] / 'tools' / 'benchmarks' / 'folders.py'


def load_tool() -> Any:
    spec = importlib.util.spec_from_file_location('folders', TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_digits_are_divided_by_writers(tmp_path: Path) -> None:
    folder = load_tool().write('digits', tmp_path / 'digits')
    facts = survey(folder)
    assert (facts.images, len(facts.classes), facts.side, facts.grey) == (1257, 10, 8, True)
    assert facts.tested == str(folder / 'val')
    assert len(list((folder / 'val').rglob('*.png'))) == 540


@pytest.mark.slow
def test_the_crops_of_photos(tmp_path: Path) -> None:
    """Those of scikit-learn at least: 10 x 6 crops of each."""
    folder = load_tool().write('photos', tmp_path / 'photos')
    for name in ('china', 'flower'):
        crops = [path for part in ('train', 'val') for path in (folder / part / name).iterdir()]
        assert len(crops) == 60
        assert {Image.open(crop).size for crop in crops} == {(64, 64)}
    facts = survey(folder)
    assert facts.images == sum(facts.classes) > 80
    assert facts.tested == str(folder / 'val')


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tool = load_tool()
    (tmp_path / 'data' / 'digits').mkdir(parents=True)
    (tmp_path / 'data' / 'digits' / '.complete').touch()
    for seed, value in enumerate((80.0, 90.0)):
        (tmp_path / f'digits_{seed}').mkdir()
        (tmp_path / f'digits_{seed}' / 'seconds.json').write_text('60')
        metric = dict(top1=value, random_init_top1=40.0, raw_pixels_top1=50.0)
        results = json.dumps(dict(knn=metric, linear=metric))
        (tmp_path / f'digits_{seed}' / 'results.json').write_text(results)
    monkeypatch.setattr(tool.subprocess, 'run', None)  # nothing is trained again
    arguments = ['--sets', 'digits', '--seeds', '2', '--work-dir', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', ['folders.py', *arguments])
    tool.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[3:] == [
        '| digits | raw pixels | 2 | 50.0 | 50.0 |',
        '| digits | random initialisation | 2 | 40.0 (40.0, 40.0) | 40.0 (40.0, 40.0) |',
        '| digits | trained | 2 | 85.0 (80.0, 90.0) | 85.0 (80.0, 90.0) |',
    ]
