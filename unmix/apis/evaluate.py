"""The command that evaluates a checkpoint."""

import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from unmix.apis.command import argument_parser, build_runner, configure

DESCRIPTION = """Evaluate a checkpoint by the test protocol of a config (its validation protocol if it has no other).

%(prog)s configs/quickstart/unmix-moco_digits.py work_dirs/unmix-moco_digits/epoch_150.pth
%(prog)s benchmarks/knn-resnet50_in1k work_dirs/unmix-mocov2/epoch_200.pth

The result is a table and ``results.json`` beside the checkpoint (or in --work-dir).
"""


def evaluate(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command; ``prog`` is its name in messages.

    Raises:
        OSError: If the config or the checkpoint does not exist, or the work dir cannot be written to.
        ValueError: If the config, an option or the checkpoint is not as expected.
    """
    parser = argument_parser(DESCRIPTION, prog)
    parser.add_argument('checkpoint', help='checkpoint of a model of this config, or unmix::NAME of the model zoo')
    args = parser.parse_args(arguments)
    folder = Path(args.checkpoint).absolute().parent
    if args.work_dir is None and os.path.isfile(args.checkpoint) and os.access(folder, os.W_OK):
        args.work_dir = str(folder)
    cfg = configure(args)
    cfg.load_from = args.checkpoint
    stage = stage_of(cfg)
    runner = build_runner(cfg)
    if stage == 'test':
        runner.test()
    else:
        runner.val()


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
