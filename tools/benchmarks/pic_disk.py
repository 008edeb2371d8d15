"""A step of PIC's head over recent instances: 14 million rows on disk against 65 thousand in memory.

    python tools/benchmarks/pic_disk.py /fast/disk

creates a table of 14,197,122 x 128 weights with momentum (ImageNet-22k, 14.5 GB) and one checkpoint of it in that
directory, and removes both at the end. A step has a batch of 64 ids, drawn from all instances: nearly all of its rows
are read from the disk, and as many are written. The learning rate changes each step, see ``pic.py``.

* disk, cached: the operating system caches as much of the table as fits into memory.
* disk, cold: the table is removed from the cache before the rounds (Linux).

It also prints the times to create, save and load the table, and the process's own memory after each (Linux); pages of
the table that the system caches are not counted.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from interleave import Goal, argument_parser, interleave, print_goals
from peak import extra_bytes
from pic import Batches, Ours


def measure(args: argparse.Namespace, directory: str) -> tuple[list[Goal], dict]:
    """Time the step and everything that handles the whole table."""
    goals, seconds, whole = [], {}, {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        cpu, wall = time.process_time(), time.perf_counter()
        result = call()
        row = whole[name] = dict(cpu=time.process_time() - cpu, wall=time.perf_counter() - wall)
        status = Path('/proc/self/status').read_text()
        memory = status.partition('RssAnon:')[2].split()[0]
        print(f'{name}: {row["cpu"]:.1f} s cpu, {row["wall"]:.1f} s wall, then {memory} kB of own memory', flush=True)
        return result

    disk = timed('create', lambda: Ours(args.size, args.dim, args.recent, rows_dir=directory))
    forms = {'memory': Ours(args.recent, args.dim, args.recent), 'disk': disk}
    steps = {name: Batches(form.head.num_instances, args.batch, args.dim).of(form) for name, form in forms.items()}
    file = disk.head.rows._file.fileno()
    for state in ('cached', 'cold'):
        if state == 'cold':
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        ratios = interleave(steps, args.rounds, args.threads, seed=args.seed)
        ratios.print('memory', state)
        seconds[state] = ratios.to_dict()
        for clock in ('cpu', 'wall'):
            flat = ratios.ratio('disk', 'memory', args.threads[0], clock)
            goals.append(Goal(f'pic_disk_{state}_{clock}', flat.median, 1.15, at_most=True))
    extra = {name: extra_bytes(step) for name, step in steps.items()}
    print(f'extra tensors of a step, bytes: {extra}')
    state_dict = timed('save', disk.head.state_dict)
    sizes = {path.suffix: path.stat().st_size for path in Path(directory).iterdir()}
    timed('load', lambda: disk.head.load_state_dict(state_dict))
    return goals, dict(seconds=seconds, whole=whole, extra=extra, sizes=sizes)


def main() -> None:
    """Measure and print, in a directory of its own that is removed."""
    parser = argument_parser(__doc__, rounds=7)
    parser.add_argument('directory', help='on the disk to measure')
    parser.add_argument('--size', type=int, default=14_197_122, help='instances N (default 14197122)')
    parser.add_argument('--recent', type=int, default=65536, help='recent instances K (default 65536)')
    parser.add_argument('--dim', type=int, default=128, help='feature dimension D (default 128)')
    parser.add_argument('--batch', type=int, default=64, help='ids of a step (default 64)')
    args = parser.parse_args()
    torch.set_num_threads(args.threads[0])
    torch.manual_seed(args.seed)
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        goals, details = measure(args, directory)
    print_goals(goals, args.json, **details)


if __name__ == '__main__':
    main()
