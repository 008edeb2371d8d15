"""Check before a long run that all processes start, agree on code, config and data, and reach each other.

torchrun --nproc-per-node=8 tools/misc/preflight.py CONFIG --launcher pytorch
srun ... python tools/misc/preflight.py CONFIG --launcher slurm

If not, rank 0 names the ranks and machines at fault within --timeout seconds a step, and the exit status is 1.
torchrun starts no process before all machines are there. To learn which one is missing, start one process a machine:

RANK=$NODE_RANK WORLD_SIZE=$NNODES LOCAL_RANK=0 MASTER_ADDR=... MASTER_PORT=29500 \\
    python tools/misc/preflight.py CONFIG --launcher pytorch
"""

import hashlib
import json
import os
import platform
import socket
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import mmengine
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import distributed
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # public, but not in __all__

import unmix
from unmix.apis.command import argument_parser, configure, run_tool
from unmix.engine.launch import set_rendezvous
from unmix.registry import DATASETS

Reports = dict[int, dict[str, Any]]
MARGIN = 5.0  # seconds that the other ranks wait longer than rank 0, so that rank 0 prints the error


class Meeting:
    """Ranks report to rank 0 through a key-value store, so a rank that hangs does not block the others.

    Args:
        timeout: Seconds that a report may take.
    """

    def __init__(self, timeout: float) -> None:
        self.rank, self.world_size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
        self.timeout = timeout
        self.hosts: dict[int, str] = {}
        address, port = os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])
        is_master = self.rank == 0 and os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True'
        delta = timedelta(seconds=timeout)
        try:
            self.store = TCPStore(address, port, self.world_size, is_master, timeout=delta, wait_for_workers=False)
        except (RuntimeError, ValueError) as error:
            what = 'cannot listen' if is_master else f'cannot reach rank 0 within {timeout:g} s'
            raise ValueError(f'{self.place(self.rank)} {what} at MASTER_ADDR:MASTER_PORT {address}:{port}') from error

    def place(self, rank: int) -> str:
        """Return the name of a rank and, if it is known, of its machine."""
        host = socket.gethostname() if rank == self.rank else self.hosts.get(rank)
        return f'rank {rank} on {host}' if host else f'rank {rank}'

    def hold(self, step: str, report: dict[str, Any], judge: Callable[[Reports], str] | None = None) -> Reports:
        """Hand in the report of this rank. Rank 0 waits for all reports, judges and returns them.

        Raises:
            SystemExit: On every rank, after rank 0 has printed which report is missing, or the problem that ``judge``
                returns.
            ValueError: If rank 0 itself does not get this far.
        """
        self.store.set(f'{step}/{self.rank}', json.dumps(report))
        reports, problem = self._read(step, judge) if self.rank == 0 else ({}, self._wait(step))
        if problem:
            self.leave()
            raise SystemExit(1)
        return reports

    def _read(self, step: str, judge: Callable[[Reports], str] | None) -> tuple[Reports, str]:
        keys = [f'{step}/{rank}' for rank in range(self.world_size)]
        with suppress(RuntimeError):  # on time-out
            self.store.wait(keys, timedelta(seconds=self.timeout))
        reports = {rank: json.loads(self.store.get(key)) for rank, key in enumerate(keys) if self.store.check([key])}
        problems = [f'{self.place(rank)}: {report["error"]}' for rank, report in reports.items() if 'error' in report]
        missing = [self.place(rank) for rank in range(self.world_size) if rank not in reports]
        if missing:
            problems.append(f'no report within {self.timeout:g} s from {", ".join(missing)}')
        problem = '; '.join(problems) or (judge(reports) if judge else '')
        if problem:  # before the others end: a launcher ends all when one ends
            print(f'\nerror: preflight, step {step!r}: {problem}', file=sys.stderr, flush=True)
        self.store.set(f'{step}/problem', problem)
        return reports, problem

    def _wait(self, step: str) -> bytes:
        try:
            self.store.wait([f'{step}/problem'], timedelta(seconds=self.timeout + MARGIN))
            problem: bytes = self.store.get(f'{step}/problem')
            return problem
        except RuntimeError as error:
            raise ValueError(f'preflight, step {step!r}: {self.place(self.rank)} has no answer from rank 0') from error

    def leave(self) -> None:
        """Wait for the other ranks if this is rank 0, which may keep the store."""
        if self.rank != 0:
            self.store.set(f'bye/{self.rank}', '')
        with suppress(RuntimeError):
            if self.rank == 0:
                self.store.wait([f'bye/{rank}' for rank in range(1, self.world_size)], timedelta(seconds=2))


def compare(reports: Reports, place: Callable[[int], str]) -> str:
    """Return for each fact that differs between ranks which ranks have which value, the rarest value first."""
    problems = []
    for name in reports[0]:
        ranks = defaultdict(list)
        for rank, report in reports.items():
            ranks[report[name]].append(place(rank))
        if len(ranks) > 1:
            values = sorted(ranks.items(), key=lambda item: len(item[1]))
            problems.append(f'{name} is ' + ', but '.join(f'{value} on {" and ".join(who)}' for value, who in values))
    return '; '.join(problems)


def facts(cfg: Config) -> dict[str, Any]:
    """Return what all ranks must share: versions, hashes of the package's files and of the config, sizes of data."""
    init_default_scope(cfg.get('default_scope', 'unmix'))
    import_module('unmix.datasets')
    loaders = [name for name in ('train_dataloader', 'val_dataloader') if cfg.get(name)]
    return dict(
        processes=int(os.environ['WORLD_SIZE']),
        python=platform.python_version(),
        torch=torch.__version__,
        mmengine=mmengine.__version__,
        unmix=unmix.__version__,
        code=code_hash(Path(unmix.__file__).parent),
        config=hashlib.sha256(json.dumps(cfg.to_dict(), sort_keys=True, default=str).encode()).hexdigest()[:12],
    ) | {f'{name}.dataset size': len(DATASETS.build(cfg[name].dataset)) for name in loaders}


def code_hash(package: Path) -> str:
    """Return the first 12 digits of the SHA-256 of names and contents of a package's Python files."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob('*.py')):
        if '.mim' not in path.parts:
            digest.update(f'{path.relative_to(package)}\0{path.stat().st_size}\0'.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def all_reduce(meeting: Meeting, size: float) -> dict[str, Any]:
    """Sum a tensor of ``size`` MiB over the ranks. Return the seconds of the fastest of three sums."""
    cuda = torch.cuda.is_available()
    device = torch.device('cuda', int(os.environ['LOCAL_RANK'])) if cuda else torch.device('cpu')
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group(
        'nccl' if cuda else 'gloo',
        store=PrefixStore('group', meeting.store),
        rank=meeting.rank,
        world_size=meeting.world_size,
        timeout=timedelta(seconds=meeting.timeout),
    )
    expected, seconds = meeting.world_size * (meeting.world_size + 1) / 2, []
    for _ in range(4):  # the first one connects the ranks
        tensor = torch.full((max(int(size * 2**18), 1),), meeting.rank + 1.0, device=device)
        start = time.perf_counter()
        distributed.all_reduce(tensor)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        low, high = tensor.min().item(), tensor.max().item()
        if low != expected or high != expected:
            return dict(error=f'the all-reduce of 1 to {meeting.world_size} is {low:g} to {high:g}, not {expected:g}')
    distributed.destroy_process_group()
    return dict(seconds=min(seconds[1:]))


def attempt(step: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """Return the report of a step, or of its error."""
    try:
        return step(*args)
    except Exception as error:
        return dict(error=f'{type(error).__name__}: {error}')


def main() -> None:
    """Hold the three steps, and print what the ranks agree on."""
    parser = argument_parser(__doc__)
    parser.add_argument('--timeout', type=float, default=60.0, metavar='SECONDS', help='of each step (default: 60)')
    parser.add_argument('--size', type=float, default=64.0, metavar='MIB', help='of the all-reduce (default: 64)')
    args = parser.parse_args()
    if args.launcher == 'none':
        raise ValueError("--launcher is 'none'; preflight checks several processes: pytorch, slurm or mpi.")
    set_rendezvous(args.launcher, None)
    meeting = Meeting(args.timeout)
    here = meeting.hold('come', dict(host=socket.gethostname()))
    meeting.hosts = {rank: report['host'] for rank, report in here.items()}
    agreed = meeting.hold('agree', attempt(lambda: facts(configure(args))), lambda r: compare(r, meeting.place))
    reduced = meeting.hold('all-reduce', attempt(all_reduce, meeting, args.size))
    if meeting.rank == 0:
        machines, seconds = len(set(meeting.hosts.values())), max(report['seconds'] for report in reduced.values())
        moved = args.size * 2**20 * 2 * (meeting.world_size - 1) / meeting.world_size
        print(f'{meeting.world_size} ranks on {machines} machine(s) agree:')
        print('\n'.join(f'  {name}: {value}' for name, value in agreed[0].items()))
        print(f'all-reduce of {args.size:g} MiB: right, {moved / seconds / 1e9:.2f} GB/s a rank each way')
    meeting.leave()


if __name__ == '__main__':
    run_tool(main)
