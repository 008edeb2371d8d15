"""Evaluate a checkpoint by the test protocol of a config (its validation protocol if it has no other).

python tools/test.py configs/quickstart/unmix-moco_digits.py work_dirs/unmix-moco_digits/epoch_150.pth
"""

import argparse

from unmix.apis.launch import argument_parser, build_runner, configure, run_tool


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument('checkpoint', help='checkpoint of a model of this config')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = configure(args)
    cfg.load_from = args.checkpoint
    runner = build_runner(cfg)
    if cfg.get('test_cfg') is not None:
        runner.test()
    else:
        runner.val()


if __name__ == '__main__':
    run_tool(main)
