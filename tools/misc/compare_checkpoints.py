"""Compare two checkpoints of a training, bit for bit: weights, buffers, optimiser, schedulers, histories, best metric.

python tools/misc/compare_checkpoints.py work_dirs/a/epoch_10.pth work_dirs/b/epoch_10.pth

Times, and the names of work directory and run, are not compared. The paths of all differing values are printed. The
exit status is 1 if there are any.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import HistoryBuffer

from unmix.apis.command import run_tool
from unmix.checkpoint.load import load_from_local

TIMES = ('train/time', 'train/data_time', 'val/time', 'val/data_time')  # histories
# In `meta` and `runtime_info`. MMEngine's version ends in the commit of the current directory, whatever that holds.
NAMES = ('cfg', 'eta', 'experiment_name', 'mmengine_version', 'run', 'time')
MISSING = object()


def leaves(node: Any, path: str = '') -> list[tuple[str, Any]]:
    """Return all values below ``node`` with their dotted paths."""
    if isinstance(node, HistoryBuffer):
        node = dict(zip(('values', 'counts'), (row.tolist() for row in node.data), strict=True))
    if isinstance(node, Mapping):
        node = node.items()
    elif isinstance(node, list | tuple):
        node = enumerate(node)
    else:
        return [(path, node)]
    return [leaf for key, value in node for leaf in leaves(value, f'{path}.{key}' if path else str(key))]


def state(path: str | Path) -> dict[str, Any]:
    """Return all values of a checkpoint by their dotted paths, without times and names of the run.

    Raises:
        ValueError: If the file is no checkpoint of a training.
    """
    checkpoint = load_from_local(str(path), map_location='cpu')
    if not isinstance(checkpoint, dict) or not {'meta', 'message_hub', 'optimizer'} <= checkpoint.keys():
        raise ValueError(f'{path} has no optimiser or history. Give a checkpoint that tools/train.py has written.')
    hub, work_dir = checkpoint['message_hub'], str(Path(path).parent)
    for node, names in ((checkpoint['meta'], NAMES), (hub['runtime_info'], NAMES), (hub['log_scalars'], TIMES)):
        for name in names:
            node.pop(name, None)
    return {key: value.replace(work_dir, '') if isinstance(value, str) else value for key, value in leaves(checkpoint)}


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return the paths of values that differ, or are in one state only."""
    return sorted(
        key for key in ours.keys() | theirs.keys() if not equal(ours.get(key, MISSING), theirs.get(key, MISSING))
    )


def equal(a: Any, b: Any) -> bool:
    """Return whether two values are the same, bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and bool(a == b or (a != a and b != b))  # NaN is not equal to itself


def main() -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoints', nargs=2)
    ours, theirs = map(state, parser.parse_args().checkpoints)
    wrong = differences(ours, theirs)
    print('\n'.join([*wrong, f'{len(wrong)} of {len(ours.keys() | theirs.keys())} values differ']))
    sys.exit(bool(wrong))


if __name__ == '__main__':
    run_tool(main)
