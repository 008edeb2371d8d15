"""Repeat a step that :class:`FiniteLossHook` has left out, and name what is not finite first.

python tools/misc/replay.py work_dirs/unmix-moco_digits/captures/iter_318.pth

A capture is a checkpoint of the moment before the step. It is resumed for one step with the config of its work dir, so
batch and random draws are those of the run. The output of each module and the gradient of each parameter are checked,
and autograd's anomaly detection checks the backward pass. Nothing is written to the work dir.

A step of several processes needs as many: torchrun --nproc_per_node=2 tools/misc/replay.py CAPTURE --launcher pytorch

The exit status is 0 if all losses are equal, bit for bit, to those that were captured, and 2 if not.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from unmix.apis.command import build_runner, run_tool
from unmix.checkpoint.load import load_from_local
from unmix.config import load_config
from unmix.utils.dist import unwrap


class Replayed(Exception):
    """Raised after the step, to end the training."""


class Watch(Hook):
    """Records the losses of one step and all that is not finite in it, in order; then ends the training."""

    priority = 'HIGHEST'  # before FiniteLossHook acts

    def __init__(self) -> None:
        self.findings: list[str] = []
        self.losses: dict[str, float] = {}

    def before_train(self, runner: Runner) -> None:
        """Watch all modules and parameters."""
        model = unwrap(runner.model)
        for name, module in model.named_modules():
            what = f'the output of {name or "the model"} ({type(module).__name__})'
            module.register_forward_hook(lambda _, __, output, what=what: self._check(what, output))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                what = f'the gradient of {name}'
                parameter.register_post_accumulate_grad_hook(lambda x, what=what: self._check(what, x.grad))
        model.register_forward_hook(
            lambda _, __, losses: self.losses.update({name: float(value.detach()) for name, value in losses.items()})
        )

    def _check(self, what: str, value: Any) -> None:
        if not all(tensor.isfinite().all() for tensor in _tensors(value)):
            self.findings.append(what)

    def after_train_iter(self, *_: Any, **__: Any) -> None:
        """End the training after the first step."""
        raise Replayed


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def read_failed_step(path: Path) -> list[dict[str, Any]]:
    """Return the record of the step, one of each rank.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or no capture.
    """
    capture = load_from_local(str(path), map_location='cpu')
    steps = capture.get('meta', {}).get('failed_step') if isinstance(capture, dict) else None
    if steps is None:
        raise ValueError(
            f'{path} is no capture: its meta has no failed_step. Give a file that FiniteLossHook has written to '
            'captures/ in the work dir.'
        )
    return list(steps)


def find_config(capture: Path) -> Path:
    """Return the newest config of the work dir that a capture lies in.

    Raises:
        FileNotFoundError: If there is none.
    """
    configs = sorted(capture.resolve().parents[1].glob('*.py'), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise FileNotFoundError(f'{capture.resolve().parents[1]} holds no config: give the one of the run by --config.')
    return configs[-1]


def main() -> None:
    """Repeat the step and print the findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('capture', type=Path, help='captures/iter_N.pth of a work dir')
    parser.add_argument('--config', type=Path, help='config of the run (default: the newest one of the work dir)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    steps = read_failed_step(args.capture)
    cfg = load_config(str(args.config or find_config(args.capture)))
    with tempfile.TemporaryDirectory() as work_dir:
        cfg.merge_from_dict(dict(work_dir=work_dir, resume=True, load_from=str(args.capture), launcher=args.launcher))
        for part in ('val', 'test'):
            for key in (f'{part}_cfg', f'{part}_dataloader', f'{part}_evaluator'):
                cfg[key] = None
        runner = build_runner(cfg)
        if len(steps) != get_world_size():
            raise ValueError(
                f'{args.capture} is of a step of {len(steps)} processes, and this is {get_world_size()}; use torchrun '
                f'--nproc_per_node={len(steps)} tools/misc/replay.py {args.capture} --launcher pytorch'
            )
        watch, own = Watch(), steps[get_rank()]
        runner.register_hook(watch)
        try:
            with torch.autograd.set_detect_anomaly(True):
                runner.train()
        except Replayed:
            pass
        except RuntimeError as error:
            if 'returned nan values' not in str(error):
                raise
            watch.findings.append(f'a derivative: {error}')
    first = watch.findings[0] if watch.findings else 'nothing: the step is finite now'
    print(f'images of the batch: {" ".join(map(str, own["index"] or ()))}\nnot finite first: {first}')
    equal = True
    for name, now in watch.losses.items():
        then = own['losses'].get(name)
        same = then == now or (then is not None and math.isnan(then) and math.isnan(now))
        equal &= same
        print(f'{name:14} captured {then!r:<24} replayed {now!r:<24} {"equal" if same else "DIFFERENT"}')
    sys.stdout.flush()
    if not equal:
        sys.exit(2)


if __name__ == '__main__':
    run_tool(main)
