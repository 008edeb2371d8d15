"""The benchmarks' timing: in turns, within rounds, with the goals that the ratios meet."""

import gc
import json
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'tools/benchmarks'))
import measure as bench

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope='module')
def _few_objects():
    """Each turn of a variant begins with a collection of garbage: let it not look at what other tests have left."""
    gc.freeze()


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


class Accelerator:
    """Stands in for ``torch.cuda``: its clock runs ten times as fast as the wall's."""

    class Event:
        def __init__(self, enable_timing):
            self.time = None

        def record(self):
            self.time = time.perf_counter()

        def elapsed_time(self, end):
            return 10 * 1e3 * (end.time - self.time)

    def synchronize(self):
        time.sleep(0.001)

    def reset_peak_memory_stats(self):
        pass

    def memory_allocated(self):
        return 100

    def max_memory_allocated(self):
        return 350


def test_an_accelerator_times_by_its_events_and_counts_its_memory(monkeypatch):
    monkeypatch.setattr(torch, 'get_device_module', lambda device: Accelerator())
    calls = []
    variants = {'slow': lambda: busy(0.02), 'fast': lambda: calls.append(busy(0.005))}
    ratios = bench.interleave(variants, 2, threads=(1, 2), device='cuda')
    assert ratios.clocks == ['device', 'host', 'wall']
    assert list(ratios.seconds) == [1]  # threads of the host say nothing
    assert len(calls) == 3 + 2
    clocks = ratios.seconds[1]
    assert min(clocks['device']['slow']) >= 0.2
    assert all(0.02 <= host < wall for host, wall in zip(clocks['host']['slow'], clocks['wall']['slow'], strict=True))
    assert ratios.ratio('slow', 'fast') == ratios.ratio('slow', 'fast', clock='device')
    assert bench.extra_bytes(lambda: None, 'cuda') == 250


@pytest.mark.parametrize(('device', 'expected'), [
    ('cpu', {'CUDA_VISIBLE_DEVICES': ''}), ('cuda', {}), ('cuda:1', {'CUDA_VISIBLE_DEVICES': '1'}),
])  # fmt: skip
def test_a_program_sees_one_device(device, expected):
    assert bench.visible(device) == expected
