"""The benchmarks of the views, on a few images."""

import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / 'tools' / 'benchmarks'


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Import from the tools' folder, as a tool does that is run from a shell."""
    monkeypatch.syspath_prepend(FOLDER)


@pytest.mark.parametrize('setting', ['cifar', 'jpeg224'])
@pytest.mark.slow
def test_views_are_timed_against_torchvision(setting, monkeypatch, capsys):
    import views

    monkeypatch.setattr(views, 'NUM_SMALL', 4)
    monkeypatch.setattr(views, 'NUM_FILES', 2)
    arguments = [
        '--only',
        setting,
        '--peers',
        'torchvision',
        'torchvision_v2',
        '--rounds',
        '1',
        '--threads',
        '1',
        '--min-seconds',
        '0',
    ]
    monkeypatch.setattr(sys, 'argv', ['views.py', *arguments])
    views.main()
    out = capsys.readouterr().out
    assert re.search(rf'^GOAL views_{setting}_torchvision \S+ \S+ (PASS|FAIL)$', out, re.MULTILINE)
    if setting == 'jpeg224':
        assert 'GOAL views_jpeg224_torchvision_v2 ' in out
        assert 90 <= int(re.search(r'2 files of (\d+) kB', out).group(1)) <= 130


@pytest.mark.slow
def test_deviations_are_those_of_the_page(capsys):
    """Of fewer images, and so not larger."""
    import view_deviations

    page = (FOLDER.parents[1] / 'docs' / 'speed.md').read_text()
    images = view_deviations.make_images(12)
    for name in ('crop, bilinear', 'hue 0.1', 'blur'):
        mean, largest = re.search(rf'^\| {name} \| (\S+) \| \S+ \| \S+ \| (\S+) \|$', page, re.MULTILINE).groups()
        found, expected = (
            view_deviations.make_views(images, view_deviations.OPERATIONS[name], backend)
            for backend in ('numba', 'pil')
        )
        assert (found - expected).abs().max() <= float(largest) + 0.05
        assert (found - expected).abs().mean() <= 1.5 * float(mean)
