"""Before a long run: do all its processes come, agree on code, config and data, and reach each other?

torchrun --nproc-per-node=8 tools/misc/preflight.py CONFIG --launcher pytorch
srun ... python tools/misc/preflight.py CONFIG --launcher slurm

If not, the ranks and machines that are to blame are named within --timeout seconds a step, and the exit status is 1.
torchrun starts no process before all machines are there; to learn which is not, start one process a machine yourself:

RANK=$NODE_RANK WORLD_SIZE=$NNODES LOCAL_RANK=0 MASTER_ADDR=... MASTER_PORT=29500 \\
    python tools/misc/preflight.py CONFIG --launcher pytorch
"""

import argparse
import hashlib
import json
import os
import platform
import socket
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import mmengine
import torch
from meeting import Meeting, Reports
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import distributed

import unmix
from unmix.apis.command import argument_parser, configure, run_tool
from unmix.engine.launch import set_rendezvous
from unmix.registry import DATASETS


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument('--timeout', type=float, default=60.0, metavar='SECONDS', help='of each step (default: 60)')
    parser.add_argument('--size', type=float, default=64.0, metavar='MIB', help='of the all-reduce (default: 64)')
    return parser.parse_args()


def compare(reports: Reports, place: Callable[[int], str]) -> str:
    """Say for each fact that is not the same on all ranks who has which value, the rarest first."""
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
    """What must be the same everywhere: versions, hashes of the package's files and of the config, sizes of data."""
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
    """SHA-256, the first 12 digits, of names and contents of a package's Python files."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob('*.py')):
        if '.mim' not in path.parts:
            digest.update(f'{path.relative_to(package)}\0{path.stat().st_size}\0'.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def all_reduce(meeting: Meeting, size: float) -> dict[str, Any]:
    """Sum a tensor of ``size`` MiB over the ranks; its seconds, the fastest of three."""
    device = torch.device('cuda', int(os.environ['LOCAL_RANK'])) if torch.cuda.is_available() else torch.device('cpu')
    if device.type == 'cuda':
        torch.cuda.set_device(device)
    distributed.init_process_group(
        'nccl' if device.type == 'cuda' else 'gloo',
        store=distributed.PrefixStore('group', meeting.store),
        rank=meeting.rank,
        world_size=meeting.world_size,
        timeout=timedelta(seconds=meeting.timeout),
    )
    expected, seconds = meeting.world_size * (meeting.world_size + 1) / 2, []
    for _ in range(4):  # the first one makes the connections
        tensor = torch.full((max(int(size * 2**18), 1),), meeting.rank + 1.0, device=device)
        start = time.perf_counter()
        distributed.all_reduce(tensor)
        if device.type == 'cuda':
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        low, high = tensor.min().item(), tensor.max().item()
        if low != expected or high != expected:
            return dict(error=f'the all-reduce of 1 to {meeting.world_size} is {low:g} to {high:g}, not {expected:g}')
    distributed.destroy_process_group()
    return dict(seconds=min(seconds[1:]))


def attempt(step: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """The report of a step, which may be that it has failed."""
    try:
        return step(*args)
    except Exception as error:
        return dict(error=f'{type(error).__name__}: {error}')


def main() -> None:
    args = parse_args()
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
