"""What the benchmarks share: timing of variants side by side, on the CPU or on a device, extra memory, goals.

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
        seconds: Seconds of a call in each round, by number of threads, clock of :class:`Stopwatch` and variant.
        clocks: Names of the clocks.
    """

    def __init__(self, seconds: Mapping[int, Mapping[str, Mapping[str, Sequence[float]]]]) -> None:
        self.seconds = seconds
        self.clocks = list(next(iter(seconds.values())))

    def ratio(self, slow: str, fast: str, threads: int | None = None, clock: str | None = None) -> Spread:
        """Return the time of ``slow`` over that of ``fast``; by default of the first threads and the first clock."""
        rounds = self.seconds[threads or next(iter(self.seconds))][clock or self.clocks[0]]
        ratios = [a / b for a, b in zip(rounds[slow], rounds[fast], strict=True)]
        return Spread(statistics.median(ratios), min(ratios), max(ratios))

    def print(self, baseline: str, title: str = '') -> None:
        """Print milliseconds of each variant, and the time of ``baseline`` over its time."""
        heads = ''.join(f'{clock + " ms":>10s}' for clock in self.clocks)
        print(f'\n{title:28s} threads{heads}   {baseline} over it: {", ".join(self.clocks)}')
        for threads, clocks in self.seconds.items():
            for name in clocks[self.clocks[0]]:
                times = ''.join(f'{1e3 * statistics.median(clocks[clock][name]):10.2f}' for clock in self.clocks)
                ratios = [str(self.ratio(baseline, name, threads, clock)) for clock in self.clocks]
                print(f'{name:28s} {threads:7d}{times}   {", ".join(ratios)}')


def interleave(
    variants: Mapping[str, Callable[[], object]],
    rounds: int,
    threads: Sequence[int] = (1, 2),
    min_seconds: float = 0.0,
    seed: int = 0,
    device: str = 'cpu',
) -> Ratios:
    """Time ``variants`` in turns.

    Each variant is called to warm up, for each number of threads: once on the CPU, three times on an accelerator, which
    chooses its kernels and fills its allocator. The garbage collector runs between turns only.

    Args:
        variants: What to call, by name.
        rounds: Number of rounds.
        threads: Numbers of threads. All rounds are run with each of them, one after the other; on an accelerator with
            the first one only.
        min_seconds: Length of a turn. A shorter variant is called several times in a turn.
        seed: Seed of the order of the turns.
        device: Where they compute. It determines the clocks, see :class:`Stopwatch`.
    """
    order = random.Random(seed)
    before = torch.get_num_threads()
    seconds: dict[int, dict[str, dict[str, list[float]]]] = {}
    try:
        for number in threads if device == 'cpu' else threads[:1]:
            torch.set_num_threads(number)
            calls = {name: _calls(variant, min_seconds, device) for name, variant in variants.items()}
            rows: dict[str, dict[str, list[float]]] = {}
            for _ in range(rounds):
                for name in order.sample(list(variants), len(variants)):
                    for clock, value in timed(variants[name], calls[name], device).items():
                        rows.setdefault(clock, {key: [] for key in variants})[name].append(value)
            seconds[number] = rows
    finally:
        torch.set_num_threads(before)
    return Ratios(seconds)


def _calls(variant: Callable[[], object], min_seconds: float, device: str) -> int:
    for _ in range(1 if device == 'cpu' else 3):
        variant()
    return max(1, math.ceil(min_seconds / timed(variant, 1, device)['wall'])) if min_seconds else 1


class Stopwatch:
    """Measures what is done between :meth:`start` and :meth:`stop`, by several clocks.

    Its clocks are, on the CPU, ``'cpu'``, of all threads of the process, and ``'wall'``. On an accelerator they are
    ``'device'``, between two events, gaps in its queue included; ``'host'``, until :meth:`stop` was called; and
    ``'wall'``, until the device had finished.

    Args:
        device: ``'cpu'``, or an accelerator such as ``'cuda'``.
    """

    def __init__(self, device: str = 'cpu') -> None:
        self.accelerator: Any = None if device == 'cpu' else torch.get_device_module(device)
        self.begin, self.end = (
            None if self.accelerator is None else self.accelerator.Event(enable_timing=True) for _ in range(2)
        )
        self.cpu = self.wall = 0.0

    def start(self) -> None:
        """Start, after the device has finished what it had to do."""
        if self.begin is not None:
            self.accelerator.synchronize()
            self.begin.record()
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def stop(self) -> dict[str, float]:
        """Return the seconds since the start, by clock, when the device has finished."""
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        if self.begin is None or self.end is None:
            return dict(cpu=cpu, wall=wall)
        self.end.record()
        self.accelerator.synchronize()
        device: float = self.begin.elapsed_time(self.end) / 1e3
        return dict(device=device, host=wall, wall=time.perf_counter() - self.wall)


def timed(call: Callable[[], object], calls: int = 1, device: str = 'cpu') -> dict[str, float]:
    """Call ``calls`` times in a row; return the seconds of one call, by clock of :class:`Stopwatch`."""
    gc.collect()
    gc.disable()
    watch = Stopwatch(device)
    try:
        watch.start()
        for _ in range(calls):
            call()
        return {clock: seconds / calls for clock, seconds in watch.stop().items()}
    finally:
        gc.enable()


def extra_bytes(call: Callable[[], object], device: str = 'cpu') -> int:
    """Return the peak of the bytes of tensors that are alive during ``call`` and were not before it.

    On the CPU PyTorch's profiler counts each allocation, but not the buffers inside of matrix products. On an
    accelerator its allocator counts.
    """
    gc.collect()
    if device != 'cpu':
        accelerator = torch.get_device_module(device)
        accelerator.synchronize()
        accelerator.reset_peak_memory_stats()
        before: int = accelerator.memory_allocated()
        call()
        accelerator.synchronize()
        most: int = accelerator.max_memory_allocated()
        return most - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    alive = peak = 0
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == '[memory]']
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def extra_megabytes(steps: Mapping[str, Callable[[], object]], device: str = 'cpu') -> dict[str, float]:
    """Return the :func:`extra_bytes` of each step in MB, and print them."""
    found = {name: extra_bytes(step, device) / 1e6 for name, step in steps.items()}
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


def visible(device: str) -> dict[str, str]:
    """Return the environment variables with which a program, which takes the first accelerator it sees, takes this."""
    kind, _, index = device.partition(':')
    return {} if kind != 'cpu' and not index else {'CUDA_VISIBLE_DEVICES': index}


def machine() -> dict[str, Any]:
    """Return what a figure depends on: processor, accelerator, cores, load, versions."""
    info = Path('/proc/cpuinfo')
    lines = info.read_text(encoding='utf-8').splitlines() if info.exists() else []
    model = next((line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')), '')
    cards = sorted({torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())})
    return dict(processor=model or platform.processor(), accelerator=', '.join(cards), cores=os.cpu_count(),
                load=os.getloadavg(), torch=torch.__version__, python=platform.python_version())  # fmt: skip


def argument_parser(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks, ``--rounds`` and so on; give it the module's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=rounds, help=f'turns of each variant (default {rounds})')
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2], help='numbers of threads (default 1 2)')
    parser.add_argument('--device', default='cpu', help='where to compute, as cuda; its events time (default cpu)')
    parser.add_argument('--seed', type=int, default=0, help='seed of data and order (default 0)')
    parser.add_argument('--json', help='write goals, all seconds and the machine to this file, too')
    return parser
