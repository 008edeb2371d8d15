"""The command that trains."""

from collections.abc import Sequence

from unmix.apis.command import argument_parser, build_runner, configure
from unmix.config import use_amp
from unmix.engine.launch import resume_after_restart

DESCRIPTION = """Pre-train (or train) by a config, then evaluate.

%(prog)s configs/quickstart/unmix-moco_digits.py
%(prog)s quickstart/unmix-moco_digits --cfg-options model.unmix.loss_weight=0.5
"""


def train(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command; ``prog`` is its name in messages.

    Raises:
        OSError: If the config or a checkpoint does not exist, or the work dir cannot be written to.
        ValueError: If the config, an option or a checkpoint is not as expected.
    """
    parser = argument_parser(DESCRIPTION, prog)
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
    args = parser.parse_args(arguments)
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
