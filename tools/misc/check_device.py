"""Check what works on an accelerator, and how fast: a table, and a JSON file.

python tools/misc/check_device.py [--device cuda] [--budget 600] [--sections golden agreement ...] [--filter moco]
python tools/misc/check_device.py --device cpu --quick    # the same code, small

Sections, in this order:

* golden: the golden tests on the device (needs a checkout)
* agreement: a step of every method, plain and with Un-Mix, equals that on the CPU
* training: 50 steps of every method in float32, bfloat16 and AMP stay finite and on the device
* resume: a killed and resumed training equals an uninterrupted one, with deterministic algorithms; what holds without
* waits: where a step waits for the device
* nccl: a training and all collectives in use, with one process
* speed: time and memory of a step, the literal form's over ours
* losses: the same for the losses, at 65,536 negatives and 1.28 million classes
* loader: images a second, of two views of 224 px, until they are on the device
* recipes: steps of every recipe with its own network, sizes and batch; their time and memory

A case runs in a worker process, so one that fails, hangs or breaks the device costs itself only. PASS and FAIL are
judged by what the case's docstring says; SKIP is what there was no time for, or what the device does not have. The exit
status is 1 if a case failed. What the cases print is in the file that ends in .log.
"""

import argparse
import gc
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from device_cases import Case, Options, Outcome
from device_programs import program_cases
from device_recipes import recipe_cases
from device_speed import speed_cases
from device_training import training_cases
from measure import machine
from mmengine.registry import init_default_scope

from unmix.apis.command import run_tool
from unmix.testing.fork_server import fork_server

PRELOAD = ['device_cases', 'device_programs', 'device_recipes', 'device_speed', 'device_training', 'unmix.apis.command']
# Seconds that the cases of a section may take.
SECTIONS = dict(
    golden=150, agreement=90, training=150, resume=180, waits=60, nccl=120, speed=150, losses=120, loader=60,
    recipes=300,
)  # fmt: skip


class Row(NamedTuple):
    """The result of a case."""

    status: str
    section: str
    name: str
    seconds: float
    value: str
    details: dict[str, Any]

    def __str__(self) -> str:
        return f'{self.status:4}  {self.section:9}  {self.name:38}  {self.seconds:6.1f} s  {self.value}'


def all_cases(options: Options) -> list[Case]:
    """Return the cases of all sections, in order."""
    cases = [*training_cases(options), *program_cases(options), *recipe_cases(options), *speed_cases(options)]
    return sorted(cases, key=lambda case: list(SECTIONS).index(case.section))


def work(names: Sequence[tuple[str, str]], options: Options, log: str, connection: Connection) -> None:
    """Run cases in this process; send the name of each before it, and its result after it."""
    os.setsid()  # so that all that it starts can be ended with it
    with open(log, 'a', encoding='utf-8') as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    if options.device == 'cpu':
        torch.set_num_threads(1)
    init_default_scope('unmix')
    gc.freeze()  # the benchmarks collect garbage before each call that they time, of half a million objects otherwise
    cases = {case[:2]: case for case in all_cases(options)}
    for name in names:
        connection.send(name)
        begin = time.monotonic()
        broken = False
        try:
            outcome = cases[name].run()
        except Exception as error:
            print(f'{name}:', flush=True)
            sys.excepthook(type(error), error, error.__traceback__)
            outcome = Outcome('FAIL', f'{type(error).__name__}: {" ".join(str(error).split())[:300]}')
            broken = isinstance(error, getattr(torch, 'AcceleratorError', ())) or 'CUDA error' in str(error)
        seconds = time.monotonic() - begin
        connection.send(Row(outcome.status, name[0], name[1], seconds, outcome.value, outcome.details))
        if broken:  # the device is of no use to this process any more
            break
    connection.close()


def run_worker(names: Sequence[tuple[str, str]], options: Options, log: str, end: float) -> Iterator[Row]:
    """Run cases in a process until they are done, it breaks off, or ``end`` has come; yield their results."""
    context = get_context('forkserver')
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(names, options, log, theirs))
    process.start()
    theirs.close()
    running: tuple[str, str] = names[0]
    begin, done, last = time.monotonic(), 0, ('', '')
    try:
        while done < len(names):
            if not ours.poll(max(0.0, end - time.monotonic())):
                yield Row(
                    'FAIL', running[0], running[1], time.monotonic() - begin, 'the time of its section is over', {}
                )
                return
            message = ours.recv()
            if isinstance(message, Row):
                done, last = done + 1, running
                yield message
            else:
                running, begin = message, time.monotonic()
    except EOFError:
        process.join()
        if running != last:  # not between two cases, after a result that says why
            text = f'its process ended with status {process.exitcode}; see {log}'
            yield Row('FAIL', running[0], running[1], time.monotonic() - begin, text, {})
    finally:
        process.join(5 if done == len(names) else 0)  # one that is done ends its data workers itself
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()


def check(cases: Sequence[Case], options: Options, log: str, deadline: float) -> Iterator[Row]:
    """Run all cases, section by section; yield their results."""
    for section in dict.fromkeys(case.section for case in cases):
        left = [case[:2] for case in cases if case.section == section]
        end = min(time.monotonic() + SECTIONS[section], deadline)
        while left and time.monotonic() < end:
            for row in run_worker(tuple(left), options, log, end):
                left.remove((row.section, row.name))
                yield row
        for name in left:
            yield Row('SKIP', name[0], name[1], 0.0, 'no time was left', {})


def save(path: str, rows: Sequence[Row], options: Options, **more: Any) -> None:
    """Write the results so far."""
    report = options._asdict() | more | dict(results=[row._asdict() for row in rows])
    Path(path).write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')


def main() -> None:
    """Check, and print a line for each case as it ends, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda', help='cuda, cuda:1, cpu, ... (default cuda)')
    parser.add_argument('--sections', nargs='+', choices=SECTIONS, default=list(SECTIONS), help='(default: all)')
    parser.add_argument('--filter', default='', help='only cases whose name this regular expression finds')
    parser.add_argument('--budget', type=float, default=600, help='seconds for all (default 600)')
    parser.add_argument('--quick', action='store_true', help='small sizes and few steps')
    parser.add_argument('--json', default='check_device.json', help='where to write the results')
    args = parser.parse_args()
    if args.device != 'cpu' and not torch.accelerator.is_available():
        raise ValueError(f'--device is {args.device!r}, but PyTorch finds no accelerator. --device cpu needs none.')
    options = Options(args.device, args.quick)
    begin, log = time.monotonic(), f'{args.json}.log'
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, sys.path))  # of all processes that are started
    fork_server(*PRELOAD)
    Path(log).write_text('', encoding='utf-8')
    cases = [case for case in all_cases(options) if case.section in args.sections and re.search(args.filter, case.name)]
    if not cases:
        raise ValueError(f'--filter is {args.filter!r}, which no case of {", ".join(args.sections)} has in its name.')
    rows: list[Row] = []
    for row in check(cases, options, log, begin + args.budget):
        rows.append(row)
        print(row, flush=True)
        save(args.json, rows, options)
    found = machine()  # asks the device, which until now was left to the workers
    save(args.json, rows, options, machine=found)
    print('\n' + '\n'.join(map(str, rows)))
    counts = ', '.join(f'{sum(row.status == status for row in rows)} {status}' for status in ('PASS', 'FAIL', 'SKIP'))
    name = found['processor'] if args.device == 'cpu' else found['accelerator']
    print(f'DEVICE {counts}, {time.monotonic() - begin:.0f} s, {name}, torch {torch.__version__}')
    sys.exit(any(row.status == 'FAIL' for row in rows))


if __name__ == '__main__':
    run_tool(main)
