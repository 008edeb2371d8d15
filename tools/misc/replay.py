"""Run a captured training step again, and compare its losses with those that were captured, bit by bit.

python tools/misc/replay.py work_dirs/unmix-moco_digits/captures/iter_318_rank_0.pth
python tools/misc/replay.py .../captures/iter_318_rank_0.pth --device cpu --anomaly

A step of several processes needs as many, on one machine; each takes the capture of its rank from the same directory:

torchrun --nproc_per_node=2 tools/misc/replay.py .../captures/iter_318_rank_0.pth

The exit status is 0 if all losses are equal, 2 if not.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

import torch
from mmengine.dist import get_world_size
from torch import distributed

from unmix.apis.command import run_tool
from unmix.engine.capture import compare, read_capture, replay


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('capture', type=Path, help='of one rank; the others are beside it')
    parser.add_argument('--device', help='cpu or cuda; by default that of the captured step')
    parser.add_argument('--anomaly', action='store_true', help='let autograd name the operation that gives NaN first')
    parser.add_argument(
        '--imports', nargs='+', default=[], metavar='MODULE', help='modules that register your own types'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    rank, path = os.environ.get('RANK'), args.capture
    if rank is not None:
        path = path.with_name(f'{path.stem.rpartition("_")[0]}_{rank}{path.suffix}')
    for module in args.imports:
        importlib.import_module(module)
    capture = read_capture(path)
    device = args.device or capture['device']
    if device == 'cuda' and not torch.cuda.is_available():
        raise ValueError(f'{path} is of a step on CUDA, and there is none here; replay it by --device cpu.')
    if rank is not None:
        if device == 'cuda':
            torch.cuda.set_device(int(os.environ['LOCAL_RANK']))
        distributed.init_process_group('nccl' if device == 'cuda' else 'gloo')
    if capture['world_size'] != get_world_size():
        raise ValueError(
            f'{path} is of a step of {capture["world_size"]} processes, and this is {get_world_size()}; replay it by '
            f'torchrun --nproc_per_node={capture["world_size"]} tools/misc/replay.py {args.capture}'
        )
    torch.set_num_threads(capture['threads'])
    losses = replay(capture, device, args.anomaly)
    equal = compare(capture['losses'], losses)
    lines = [describe(capture)]
    lines += [f'{name:14}{"captured":>10} {float(capture["losses"][name]):<24.9g}replayed {float(value):<24.9g}'
              f'{"equal" if equal[name] else "DIFFERENT"}' for name, value in losses.items()]  # fmt: skip
    print('\n'.join(lines), flush=True)
    if rank is not None:
        distributed.destroy_process_group()
    if not all(equal.values()):
        sys.exit(2)


def describe(capture: dict) -> str:
    """Say which step it is, and of which images."""
    clock, index, mixing = capture['clock'], capture['index'], capture.get('mixing')
    text = (
        f'iteration {clock["iteration"] + 1}, epoch {clock["epoch"] + 1}, batch {capture["batch_idx"]}, seed '
        f'{clock["seed"]}, rank {capture["rank"]} of {capture["world_size"]}, {capture["device"]}, autocast '
        f'{capture["autocast"]}, config {capture["config_hash"][:12]}, torch {capture["torch"]}'
    )
    if mixing is not None:
        text += f'\nmixture: key {tuple(mixing["key"])}, shares {mixing["lam"]}'
    return text if index is None else f'{text}\nimages: {" ".join(map(str, index.tolist()))}'


if __name__ == '__main__':
    run_tool(main)
