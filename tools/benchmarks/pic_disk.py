"""A step of PIC's head over recent instances: 14 million rows on disk against 65 thousand in memory.

    python tools/benchmarks/pic_disk.py /fast/disk

makes a table of 14,197,122 x 128 weights with momentum (ImageNet-22k; 14.5 GB) in that directory, and needs room for it
and for one checkpoint of it; both are removed at the end. A step has a batch of 64 ids, drawn from all, so that nearly
all of its rows come from the disk and as many go there; the learning rate changes each step, see ``pic.py``.

* disk, cached: the system has kept in memory what it had room for after it wrote the table.
* disk: the table was put out of the system's memory before the rounds.

Then the time to make the table, to save and to load it, the sizes, and how the process's memory grows: ``anonymous`` is
its own, ``file`` the pages of the table that it has touched, which the system takes back when it needs them.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from interleave import Goal, argument_parser, interleave, print_goals
from peak import extra_bytes
from pic import Batches, Ours

from unmix.checkpoint.save import save_checkpoint


def check_room(directory: str, num: int, dim: int) -> None:
    """Refuse to fill a disk.

    Raises:
        OSError: If the directory has no room for the table and a copy of it.
    """
    needed, free = 2 * 8 * num * dim, shutil.disk_usage(directory).free
    if free < 1.05 * needed:
        raise OSError(
            f'{directory} has {free / 2**30:.1f} GiB free; the table of {num} x {dim} and a checkpoint of it take '
            f'{needed / 2**30:.1f}. Give another directory or a lower --size.'
        )


def resident() -> dict[str, int]:
    """Return the process's memory in bytes: its own, and of files (Linux)."""
    lines = [line.split() for line in Path('/proc/self/status').read_text().splitlines()]
    names = {'RssAnon:': 'anonymous', 'RssFile:': 'file'}
    return {names[line[0]]: 1024 * int(line[1]) for line in lines if line and line[0] in names}


def timed(name: str, call: Callable[[], object], details: dict[str, dict]) -> None:
    """Call, print and note seconds and growth of memory."""
    before, cpu, wall = resident(), time.process_time(), time.perf_counter()
    call()
    row: dict[str, float] = dict(cpu=time.process_time() - cpu, wall=time.perf_counter() - wall)
    row |= {kind: size - before[kind] for kind, size in resident().items()}
    print(f'{name:28s} {row["cpu"]:7.1f} s cpu {row["wall"]:7.1f} s wall, memory MB: anonymous '
          f'{row["anonymous"] / 1e6:+.1f}, file {row["file"] / 1e6:+.1f}', flush=True)  # fmt: skip
    details[name] = row


def forget(form: Ours) -> None:
    """Put the table out of the system's memory (Linux), apart from the pages that this process has touched."""
    descriptor = form.head.rows._file.fileno()
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def measure(args: argparse.Namespace, directory: str) -> tuple[list[Goal], dict]:
    """Time the step and all that handles the whole table."""
    details: dict[str, dict] = {}
    forms: dict[str, Ours] = {}

    def make(name: str, num: int, rows_dir: str | None) -> None:
        forms[name] = Ours(num, args.dim, args.recent, rows_dir=rows_dir)

    few, many = f'memory, N={args.recent}', f'disk, N={args.size}'
    timed(f'make {few}', lambda: make(few, args.recent, None), details)
    timed(f'make {many}', lambda: make(many, args.size, directory), details)
    steps = {name: Batches(form.head.num_instances, args.batch, args.dim).of(form) for name, form in forms.items()}
    goals, seconds, thread = [], {}, args.threads[0]
    for state in ('cached', 'cold'):
        if state == 'cold':
            forget(forms[many])
        timings = []
        timed(f'{args.rounds} rounds, {state}',
              lambda: timings.append(interleave(steps, args.rounds, args.threads, seed=args.seed)), details)  # noqa: B023  # fmt: skip
        (ratios,) = timings
        ratios.print(few, state)
        seconds[state] = ratios.to_dict()
        for clock in ('cpu', 'wall'):
            flat = ratios.ratio(many, few, thread, clock)
            print(f'disk over memory, {state}, {clock}: {flat}')
            goals.append(Goal(f'pic_disk_{state}_{clock}', flat.median, 1.15, at_most=True))
    extra = {name: extra_bytes(step) for name, step in steps.items()}
    print('extra tensors of a step, MB: ' + ', '.join(f'{name} {size / 1e6:.1f}' for name, size in extra.items()))
    head, file = forms[many].head, Path(directory, 'checkpoint.pth')
    state_dict: dict = {}
    timed('save: the table', lambda: state_dict.update(head.state_dict()), details)
    timed('save: the checkpoint', lambda: save_checkpoint(state_dict, str(file)), details)
    sizes = {path.suffix: path.stat().st_size for path in Path(directory).iterdir()}
    print('sizes, MB: ' + ', '.join(f'{suffix} {size / 1e6:.1f}' for suffix, size in sizes.items()))
    steps[many]()
    timed('load', lambda: head.load_state_dict(torch.load(file)), details)
    return goals, dict(seconds=seconds, whole=details, extra=extra, sizes=sizes)


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
    check_room(args.directory, args.size, args.dim)
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        goals, details = measure(args, directory)
    print_goals(goals, args.json, **details)


if __name__ == '__main__':
    main()
