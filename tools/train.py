"""Pre-train (or train) by a config, then evaluate.

python tools/train.py configs/quickstart/unmix-moco_digits.py
python tools/train.py unmix::moco/moco-sym_resnet18_1xb512-coslr-1000e_cifar10.py --cfg-options model.unmix.type=UnMix
"""

import argparse

from unmix.apis.config import use_amp
from unmix.apis.elastic import resume_after_restart
from unmix.apis.launch import argument_parser, build_runner, configure, run_tool


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='go on from a checkpoint; without PATH from the latest one in the work dir',
    )
    parser.add_argument(
        '--amp', action='store_true', help='automatic mixed precision: bfloat16 on CPU, float16 on CUDA'
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = configure(args)
    if args.amp:
        use_amp(cfg)
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    runner = build_runner(cfg)
    resume_after_restart(runner)
    runner.train()
    if cfg.get('test_cfg') is not None:
        runner.test()


if __name__ == '__main__':
    run_tool(main)
