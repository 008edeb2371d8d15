"""The commands that train and that evaluate a checkpoint."""

import os
from collections.abc import Sequence
from pathlib import Path

from unmix.apis.command import argument_parser, build_runner, configure
from unmix.apis.folder import add_arguments, plan_training, print_uses, read_request
from unmix.apis.places import place_of
from unmix.apis.start import compare_with_start, named_start, prepare_start, set_start
from unmix.checkpoint.of_run import checkpoint_of, config_beside, is_place
from unmix.config import use_amp
from unmix.engine.launch import choose_start
from unmix.engine.loggers import LOGGERS, add_loggers
from unmix.engine.protocol_card import is_reported

CONFIGS = ('.py', '.json', '.yaml', '.yml')
TRAIN = """Pre-train on a folder of images, or train by a config; then evaluate.

%(prog)s --data DIR
%(prog)s --data DIR --from timm:vit_small_patch16_224
%(prog)s configs/quickstart/unmix-moco_digits.py
%(prog)s quickstart/unmix-moco_digits --cfg-options model.unmix.loss_weight=0.5
"""
EVALUATE = """Evaluate a checkpoint by the test protocol of a config (its validation protocol if it has no other).

%(prog)s work_dirs/unmix-moco_digits
%(prog)s configs/quickstart/unmix-moco_digits.py work_dirs/unmix-moco_digits/epoch_150.pth
%(prog)s benchmarks/knn-resnet50_in1k work_dirs/unmix-mocov2

A run stands for its newest checkpoint. Without CONFIG the config that the training has left beside it is used. The
result is a table and ``results.json`` beside the checkpoint (or in --work-dir).
"""


def train(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Train; ``prog`` is the name of the command in messages."""
    parser = argument_parser(TRAIN, prog, needs_config=False)
    add_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='go on from a checkpoint, or the newest one of a run; without PATH from the newest one in the work dir',
    )
    parser.add_argument(
        '--extend',
        action='store_true',
        help='with --resume: schedules are those of the config, such as of more epochs, not those of the checkpoint',
    )
    parser.add_argument(
        '--from',
        dest='start',
        metavar='WEIGHTS',
        help='start from weights: timm:NAME, torchvision:NAME, a run, or a file of any code of unmix convert',
    )
    parser.add_argument(
        '--amp', action='store_true', help='automatic mixed precision: bfloat16 on CPU, float16 on CUDA'
    )
    parser.add_argument(
        '--log',
        nargs='+',
        choices=LOGGERS,
        default=[],
        help='show the training by these too (docs/loggers.md)',
    )
    args = parser.parse_args(arguments)
    if args.start is not None and args.resume is not None and args.data is None:
        raise ValueError('--resume goes on with a run, with the weights that it has: leave out --from.')
    if args.resume not in (None, 'auto') and os.path.isdir(args.resume):
        args.resume = str(checkpoint_of(args.resume))
    if args.config is None and args.data is None:
        if args.resume in (None, 'auto'):
            parser.error('the following arguments are required: config, or --data DIR')
        args.config = str(config_beside(args.resume))
        args.work_dir = args.work_dir or os.path.dirname(args.resume) or '.'
    request = read_request(args)
    cfg = configure(args) if request is None else plan_training(request, args.launcher, args.dry_run)
    if cfg is None:
        return
    default = cfg.work_dir
    if request is None and args.work_dir is None:
        cfg.work_dir = place_of(default, args.resume or (cfg.get('load_from') or 'auto' if cfg.get('resume') else None))
    if args.log:
        add_loggers(cfg, args.log)
    if args.amp:
        use_amp(cfg)
    if args.extend:
        if args.resume is None:
            raise ValueError('--extend changes the schedules of a resumed run: give --resume too.')
        cfg.train_cfg.extend = True
    source = named_start(cfg) if args.start is None else args.start
    planned = request is not None and request.start is not None
    if source is not None and not planned:
        set_start(cfg)
    runner = build_runner(cfg)
    if source is not None and not planned:
        prepare_start(cfg, source)
    if cfg.work_dir != default:
        runner.logger.info(f'A run has used {default}: this one is in {cfg.work_dir}. Another place: --work-dir.')
    choose_start(runner, args.resume)
    runner.train()
    if cfg.get('test_cfg') is not None and not is_reported(runner):
        runner.test()
    if source is not None:
        compare_with_start(runner)
    folder = args.data if request is None else request.folder
    if folder is not None:
        print_uses(runner, folder)


def evaluate(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Evaluate a checkpoint; ``prog`` is the name of the command in messages.

    Raises:
        ValueError: If the config has no test protocol and no validation protocol.
    """
    parser = argument_parser(EVALUATE, prog)
    parser.usage = '%(prog)s [CONFIG] CHECKPOINT [options]'
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='a run, a checkpoint of a model of this config, or unmix::NAME of the model zoo',
    )
    args = parser.parse_intermixed_args(arguments)
    if args.checkpoint is None:
        if not os.path.exists(args.config) or args.config.endswith(CONFIGS):
            parser.error(f'the following arguments are required: checkpoint ({args.config} is no run, no checkpoint)')
        args.config, args.checkpoint = None, args.config
    if is_place(args.checkpoint) or os.path.isdir(args.checkpoint):
        args.checkpoint = str(checkpoint_of(args.checkpoint))
    if args.config is None:
        args.config = str(config_beside(args.checkpoint))
    folder = Path(args.checkpoint).absolute().parent
    if args.work_dir is None and os.path.isfile(args.checkpoint) and os.access(folder, os.W_OK):
        args.work_dir = str(folder)
    cfg = configure(args)
    cfg.load_from, cfg.resume = args.checkpoint, False
    stage = 'val' if cfg.get('test_cfg') is None else 'test'
    missing = [key for key in (f'{stage}_cfg', f'{stage}_dataloader', f'{stage}_evaluator') if cfg.get(key) is None]
    if missing:
        raise ValueError(
            f'{cfg.filename} has no test protocol: {" and ".join(missing)} missing. Take a base of '
            'configs/_base_/datasets, which have all three, or a config of configs/benchmarks.'
        )
    runner = build_runner(cfg, pretrained=False)
    getattr(runner, stage)()
