"""What the benchmarks share: timing of variants side by side, extra memory, goals.

A round gives each variant one turn, in shuffled order. Other processes on the machine disturb neighbouring turns alike,
so the result is the ratio within a round: the median over the rounds, and their range. A goal is printed as a line
``GOAL <name> <ratio> <target> PASS|FAIL``.
"""

import argparse
import gc
import json
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile


class Spread(NamedTuple):
    """Median and range of the ratios of all rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f'{self.median:.3g} [{self.low:.3g}..{self.high:.3g}]'


class Ratios:
    """Timings of all variants.

    Attributes:
        seconds: Seconds of a call in each round, by number of threads, clock (``'cpu'``: of all threads of the process;
            ``'wall'``) and variant.
    """

    def __init__(self, seconds: Mapping[int, Mapping[str, Mapping[str, Sequence[float]]]]) -> None:
        self.seconds = seconds

    def ratio(self, slow: str, fast: str, threads: int | None = None, clock: str = 'cpu') -> Spread:
        """Return the time of ``slow`` over that of ``fast``; ``threads`` is by default the first number of threads."""
        rounds = self.seconds[threads or next(iter(self.seconds))][clock]
        ratios = [a / b for a, b in zip(rounds[slow], rounds[fast], strict=True)]
        return Spread(statistics.median(ratios), min(ratios), max(ratios))

    def print(self, baseline: str, title: str = '') -> None:
        """Print milliseconds of each variant, and the time of ``baseline`` over its time."""
        print(f'\n{title:28s} threads    cpu ms   wall ms   {baseline} over it: cpu, wall')
        for threads, clocks in self.seconds.items():
            for name in clocks['cpu']:
                cpu, wall = (1e3 * statistics.median(clocks[clock][name]) for clock in ('cpu', 'wall'))
                ratios = [self.ratio(baseline, name, threads, clock) for clock in ('cpu', 'wall')]
                print(f'{name:28s} {threads:7d} {cpu:9.2f} {wall:9.2f}   {ratios[0]}, {ratios[1]}')


def interleave(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    threads: Sequence[int] = (1, 2),
    min_seconds: float = 0.0,
    seed: int = 0,
) -> Ratios:
    """Time ``variants`` in turns.

    Each variant is called once to warm up, for each number of threads. The garbage collector runs between turns only.
    A turn ends when the accelerator has finished.

    Args:
        variants: What to call, by name.
        rounds: Number of rounds.
        threads: Numbers of threads. All rounds are run with each of them, one after the other.
        min_seconds: Length of a turn. A shorter variant is called several times in a turn.
        seed: Seed of the order of the turns.
    """
    order = random.Random(seed)
    before = torch.get_num_threads()
    seconds: dict[int, dict[str, dict[str, list[float]]]] = {}
    try:
        for number in threads:
            torch.set_num_threads(number)
            calls = {name: _calls(variant, min_seconds) for name, variant in variants.items()}
            rows: dict[str, dict[str, list[float]]] = {
                clock: {name: [] for name in variants} for clock in ('cpu', 'wall')
            }
            for _ in range(rounds):
                for name in order.sample(list(variants), len(variants)):
                    cpu, wall = _turn(variants[name], calls[name])
                    rows['cpu'][name].append(cpu)
                    rows['wall'][name].append(wall)
            seconds[number] = rows
    finally:
        torch.set_num_threads(before)
    return Ratios(seconds)


def _calls(variant: Callable[[], object], min_seconds: float) -> int:
    variant()
    return max(1, math.ceil(min_seconds / _turn(variant, 1)[1])) if min_seconds else 1


def _turn(variant: Callable[[], object], calls: int) -> tuple[float, float]:
    """Return CPU and wall seconds of one of ``calls`` calls."""
    gc.collect()
    gc.disable()
    try:
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(calls):
            variant()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return (time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls
    finally:
        gc.enable()


def extra_bytes(call: Callable[[], object]) -> int:
    """Return the peak of the bytes of tensors, on the CPU, that are alive during ``call`` and were not before it.

    PyTorch's profiler counts each allocation. It does not see buffers inside of matrix products.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    alive = peak = 0
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]']
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def extra_megabytes(steps: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the :func:`extra_bytes` of each step in MB, and print them."""
    found = {name: extra_bytes(step) / 1e6 for name, step in steps.items()}
    print('extra memory, MB: ' + ', '.join(f'{name} {size:.1f}' for name, size in found.items()))
    return found


class Goal(NamedTuple):
    """A ratio and its target: the least that it should be, or with ``at_most`` the most."""

    name: str
    value: float
    target: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.value <= self.target if self.at_most else self.value >= self.target


def print_goals(goals: Sequence[Goal], file: str | Path | None = None, **details: Any) -> None:
    """Print a line for each goal. Write the goals, the machine and ``details`` to ``file`` (JSON) if it is given."""
    print()
    for goal in goals:
        print(f'GOAL {goal.name} {goal.value:.4g} {goal.target:.4g} {"PASS" if goal.met else "FAIL"}')
    if file is not None:
        rows = {goal.name: dict(value=goal.value, target=goal.target, met=goal.met) for goal in goals}
        Path(file).write_text(
            json.dumps(dict(goals=rows, machine=machine(), **details), indent=2) + '\n', encoding='utf-8'
        )


def machine() -> dict[str, Any]:
    """Return what a figure depends on: processor, cores, load, versions."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text(encoding='utf-8').splitlines() if info.exists() else []
    model = next((line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')), '')
    return dict(processor=model or platform.processor(), cores=os.cpu_count(), load=os.getloadavg(),
                torch=torch.__version__, python=platform.python_version())  # fmt: skip


def argument_parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with ``--rounds``, ``--threads``, ``--seed`` and ``--json``; give it the module's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=rounds, help=f'turns of each variant (default {rounds})')
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2], help='numbers of threads (default 1 2)')
    parser.add_argument('--seed', type=int, default=0, help='seed of data and order (default 0)')
    parser.add_argument('--json', help='write goals, all seconds and the machine to this file, too')
    return parser
