"""Work dirs of runs that were given none."""

import json
from pathlib import Path

import pytest

from unmix.apis.places import place_of
from unmix.engine.launch import NOTE as JOB
from unmix.engine.launch import _agent
from unmix.utils.run_files import NOTE


def begin(place: str, name: str = 'a') -> None:
    Path(place).mkdir(parents=True)
    Path(place, NOTE).write_text(json.dumps({'run': [[name, 0]]}))


def test_no_run_takes_the_place_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = 'work_dirs/NAME'
    for expected in (base, f'{base}_2', f'{base}_3'):
        assert place_of(base, None) == expected
        begin(expected)
    for other in (f'{base}_x', f'{base}_04', 'work_dirs/NAME2', f'{base}_9'):  # the last without a run
        Path(other).mkdir()
    assert place_of(base, None) == f'{base}_4'
    Path(base, NOTE).unlink()
    assert place_of(base, None) == f'{base}_4'  # never one before a run that is there
    Path(f'{base}_9', 'results.json').touch()  # of an evaluation
    assert place_of(base, None) == f'{base}_10'


def test_a_resumed_run_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base = 'work_dirs/NAME'
    assert place_of(base, 'auto') == base
    begin(base)
    begin(f'{base}_2')
    Path(f'{base}_3').mkdir()
    assert place_of(base, 'auto') == f'{base}_2'
    assert place_of(base, f'{base}/epoch_1.pth') == base
    assert place_of(base, str(tmp_path / base / 'epoch_1.pth')) == base
    assert place_of(base, 'elsewhere/epoch_1.pth') == f'{base}_3'


def test_a_run_that_torchrun_restarts_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('TORCHELASTIC_RUN_ID', 'job')
    base = str(tmp_path / 'NAME')
    begin(base, 'of another job')
    assert place_of(base, None) == f'{base}_2'
    begin(f'{base}_2', 'of this job')
    Path(f'{base}_2', JOB).write_text(json.dumps(dict(agents=[_agent()], before=None)))
    assert place_of(base, None) == f'{base}_2'
