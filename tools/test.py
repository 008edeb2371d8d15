"""Evaluate a checkpoint by the test protocol of a config (its validation protocol if it has no other).

python tools/test.py configs/quickstart/unmix-moco_digits.py work_dirs/unmix-moco_digits/epoch_150.pth
python tools/test.py unmix::benchmarks/knn-resnet50_in1k.py work_dirs/unmix-mocov2/epoch_200.pth

The result is a table and ``results.json`` beside the checkpoint (or in --work-dir).
"""

import argparse
import os
from pathlib import Path

from mmengine.config import Config

from unmix.apis.launch import argument_parser, build_runner, configure, run_tool


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument('checkpoint', help='checkpoint of a model of this config')
    args = parser.parse_args()
    folder = Path(args.checkpoint).absolute().parent
    if args.work_dir is None and os.path.isfile(args.checkpoint) and os.access(folder, os.W_OK):
        args.work_dir = str(folder)
    return args


def stage_of(cfg: Config) -> str:
    """Return 'test', or 'val' for a config without a test.

    Raises:
        ValueError: If it has no data to test on.
    """
    stage = 'val' if cfg.get('test_cfg') is None else 'test'
    missing = [key for key in (f'{stage}_cfg', f'{stage}_dataloader', f'{stage}_evaluator') if cfg.get(key) is None]
    if missing:
        raise ValueError(
            f'{cfg.filename} says not what to test on: {" and ".join(missing)} missing. Take a base of '
            'configs/_base_/datasets, which have all three, or a config of configs/benchmarks.'
        )
    return stage


def main() -> None:
    args = parse_args()
    cfg = configure(args)
    cfg.load_from = args.checkpoint
    stage = stage_of(cfg)
    runner = build_runner(cfg)
    if stage == 'test':
        runner.test()
    else:
        runner.val()


if __name__ == '__main__':
    run_tool(main)
