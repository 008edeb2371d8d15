"""The benchmarks' timing: in turns, within rounds, with the goals that the ratios meet."""

import json
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'tools/benchmarks'))
import measure as bench

pytestmark = pytest.mark.slow


def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_variant_that_takes_four_times_as_long_has_the_ratio_four():
    before = torch.get_num_threads()
    ratios = bench.interleave({'slow': lambda: busy(0.02), 'fast': lambda: busy(0.005)}, 3, threads=(1,))
    spread = ratios.ratio('slow', 'fast')
    assert spread.low <= spread.median <= spread.high
    assert spread.median == pytest.approx(4, rel=0.2)
    assert torch.get_num_threads() == before


def test_each_round_gives_each_variant_one_turn_in_an_order_that_changes():
    turns = []
    variants = {name: lambda name=name: turns.append((name, torch.get_num_threads())) for name in 'abc'}
    table = bench.interleave(variants, 8, threads=(1, 2))
    for threads in (1, 2):
        names = [name for name, number in turns if number == threads][3:]  # after the warm-up
        rounds = [tuple(names[i : i + 3]) for i in range(0, 24, 3)]
        assert all(sorted(one) == ['a', 'b', 'c'] for one in rounds)
        assert len(set(rounds)) > 1
        assert len(table.seconds[threads]['wall']['b']) == 8


def test_a_short_variant_is_called_several_times_in_a_turn_and_one_call_is_counted():
    calls = []
    table = bench.interleave({'short': lambda: calls.append(time.sleep(0.002))}, 2, threads=(1,), min_seconds=0.1)
    assert len(calls) >= 2 + 2 * 5
    assert 0.002 <= min(table.seconds[1]['wall']['short']) < 0.02


def test_goals_are_lines_and_a_file(tmp_path, capsys):
    goals = [bench.Goal('speed', 4.2, 5), bench.Goal('memory', 0.0051, 0.01, at_most=True)]
    bench.print_goals(goals, tmp_path / 'goals.json', rounds=3)
    assert capsys.readouterr().out.strip().splitlines() == ['GOAL speed 4.2 5 FAIL', 'GOAL memory 0.0051 0.01 PASS']
    written = json.loads((tmp_path / 'goals.json').read_text())
    assert written['goals']['memory'] == dict(value=0.0051, target=0.01, met=True)
    assert written['rounds'] == 3
    assert written['machine']['torch'] == torch.__version__
