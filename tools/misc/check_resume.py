"""Prove that a killed and resumed training equals the uninterrupted one, bit for bit.

python tools/misc/check_resume.py --all
python tools/misc/check_resume.py unmix::quickstart/unmix-moco_digits.py --filter amp
python tools/misc/check_resume.py --data      # images in a folder, zips, tars, shards and Arrow tables, by each cache

A case is a config with 0 or 2 data workers, with or without gradient accumulation, with or without mixed precision. It
is trained once as a whole. A second training gets SIGKILL after a random iteration and is resumed from its work
directory. Every tensor and number of the last checkpoints must be equal (weights, buffers, optimiser, schedulers,
histories, best metric), and so must the batches of each iteration. Only times, the names of the work directories,
and the commit that MMEngine writes down as its version, are not compared.

Configs of the digits are made small: 80 images, batches of 16, three epochs. Others are trained as they are. There is a
checkpoint every three iterations, so also in the middle of epochs and of accumulations.

The last line is ``RESUME <equal> of <cases> equal, <seconds> s``; the exit status is 1 if any differs.
"""

import argparse
import itertools
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from compare_checkpoints import differences, leaves, state
from small_forms import FORMS, write
from small_trainings import Case, method, train

from unmix.apis.command import run_tool
from unmix.config import config_root
from unmix.testing.fork_server import fork_server

CONFIG_OF_FORMS = 'quickstart/unmix-moco_digits'
PRELOAD = ['small_trainings', 'unmix.apis.command', 'sklearn.datasets', 'matplotlib.backends.backend_agg']


def start(case: Case, work_dir: Path, resume: bool = False) -> BaseProcess:
    """Start a training in a process that is forked from a server with all imports done."""
    process = get_context('forkserver').Process(target=train, args=(case, str(work_dir), resume))
    process.start()
    return process


def finish(process: BaseProcess, work_dir: Path) -> None:
    """Wait for the end of a training.

    Raises:
        RuntimeError: If it ends with an error. The message has the end of its output.
    """
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(
            f'exit status {process.exitcode}:\n' + (work_dir / 'output.txt').read_text(encoding='utf-8')[-3000:]
        )


def batches(work_dir: Path) -> dict[str, str]:
    """Return the hash of the batch of each iteration; the last one if the iteration was run twice."""
    path = work_dir / 'batches.txt'
    lines = path.read_text(encoding='utf-8').splitlines() if path.exists() else []
    return dict(line.split() for line in lines if len(line.split()) == 2)


def kill(case: Case, work_dir: Path, after: int, rng: random.Random) -> bool:
    """Start a training, send SIGKILL some milliseconds after the start of iteration ``after``.

    Returns:
        Whether the training was still running.
    """
    process = start(case, work_dir)
    while process.is_alive() and len(batches(work_dir)) <= after:
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.02))
    process.kill()
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        finish(process, work_dir)
    return process.exitcode == -signal.SIGKILL


def result(work_dir: Path) -> dict[str, Any]:
    """Return all values of the last checkpoint, and the hashes of all batches."""
    return state((work_dir / 'last_checkpoint').read_text(encoding='utf-8').strip()) | dict(
        leaves(batches(work_dir), 'batches')
    )


def check(case: Case, seed: int, directory: Path) -> tuple[bool, str]:
    """Check one case. Return whether both trainings are equal, and the line to print."""
    begin, rng = time.monotonic(), random.Random(f'{seed} {case}')
    whole, parts = directory / 'whole', directory / 'parts'
    whole.mkdir(parents=True)
    try:
        if case.data:
            write(case.data, directory / 'data')
        finish(start(case, whole), whole)
        total = len(batches(whole))
        killed = False
        while not killed:  # again if the training ended before the signal
            shutil.rmtree(parts, ignore_errors=True)
            parts.mkdir()
            killed = kill(case, parts, rng.randrange(total - 1), rng)
        done = len(batches(parts))
        finish(start(case, parts, resume=True), parts)
        wrong = differences(*(result(directory) for directory in (whole, parts)))
        found = re.findall(r'resumed epoch: \d+, iter: (\d+)', (parts / 'output.txt').read_text(encoding='utf-8'))
        text = f'killed in {done:2} of {total}, resumed after {found[-1] if found else 0:>2}'
        if wrong:
            text += f': {len(wrong)} differ, {", ".join(wrong[:4])}'
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        wrong, text = ['error'], f'{type(error).__name__}: {error}'
    return not wrong, f'{"FAIL" if wrong else "ok  "} {case} {time.monotonic() - begin:5.1f} s  {text}'


def all_cases(configs: Sequence[str]) -> list[Case]:
    """Return all combinations of configs and options."""
    return [Case(*case) for case in itertools.product(configs, (0, 2), (1, 2), (False, True))]


def covering(cases: Sequence[Case], seed: int) -> list[Case]:
    """Return one case of each method, with or without Un-Mix. Ten cover all pairs of values of any two options."""
    groups = [list(group) for _, group in itertools.groupby(sorted(cases, key=method), key=method)]
    return [group[(5 * i + seed) % len(group)] for i, group in enumerate(groups)]


def main() -> None:
    """Check, and print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='*', help='configs; or --all')
    parser.add_argument('--all', action='store_true', help='all quickstart configs of the digits: every algorithm')
    parser.add_argument(
        '--data', nargs='*', metavar='FORM', help=f'images in these forms, with 2 workers (default: {", ".join(FORMS)})'
    )
    parser.add_argument('--cover', action='store_true', help='one case of each method instead of all')
    parser.add_argument('--filter', default='', help='only cases whose line contains this text')
    parser.add_argument('--deterministic', action='store_true', help='deterministic algorithms, for accelerators')
    parser.add_argument('--seed', type=int, default=0, help='seed of the iterations at which trainings are killed')
    parser.add_argument('--jobs', type=int, default=1, help='cases at a time')
    parser.add_argument('--keep', type=Path, help='directory for the work directories (default: temporary)')
    args = parser.parse_args()
    configs = sorted(map(str, config_root().glob('quickstart/*_digits.py'))) if args.all else args.configs
    if args.data is not None:
        forms = args.data or FORMS
        if not {*forms} <= {*FORMS}:
            parser.error(f'--data {" ".join(forms)}: expected some of {", ".join(FORMS)}')
        cases = [Case(CONFIG_OF_FORMS, 2, 1, False, data=form) for form in forms]
    elif not configs:
        parser.error('give configs, --all, or --data')
    else:
        cases = all_cases(configs)
    cases = [case for case in cases if args.filter in str(case)]
    cases = covering(cases, args.seed) if args.cover else cases
    cases = [case._replace(deterministic=args.deterministic) for case in cases]
    fork_server(*PRELOAD)
    begin, equal_cases = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(args.jobs) as pool:
        directory = args.keep or Path(scratch)
        paths = [directory / str(number) for number in range(len(cases))]
        for holds, line in pool.map(check, cases, itertools.repeat(args.seed), paths):
            equal_cases += holds
            print(line, flush=True)
    print(f'RESUME {equal_cases} of {len(cases)} equal, {time.monotonic() - begin:.0f} s')
    sys.exit(equal_cases < len(cases))


if __name__ == '__main__':
    run_tool(main)
