"""Common parts of the tools: arguments, the Runner, and errors that a user can correct."""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict

import unmix
from unmix.checkpoint.load import trust_checkpoints
from unmix.checkpoint.of_run import checkpoint_of
from unmix.config import load_config
from unmix.config.options import parse_value
from unmix.engine.launch import init_cpu_distributed
from unmix.engine.runner import Runner
from unmix.engine.sharding import FlexibleRunner
from unmix.utils.files import try_folder
from unmix.utils.streams import run_tool

__all__ = ['Options', 'argument_parser', 'build_runner', 'configure', 'picture_file', 'run_tool']


class Options(argparse.Action):
    """``KEY=VALUE ...``, see :func:`unmix.config.options.parse_value`."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Parse the words.

        Raises:
            ValueError: If a word has no ``=``, no key, or a value whose brackets are not closed.
        """
        options = dict(getattr(namespace, self.dest) or {})
        for word in values:
            key, sign, value = word.partition('=')
            if not sign or not all(key.split('.')):
                raise ValueError(
                    f'--cfg-options {word}: expected KEY=VALUE without blanks, e.g. model.momentum=0.99; quote a '
                    'value that has blanks: "KEY=[1, 2]".'
                )
            try:
                options[key] = parse_value(value)
            except ValueError as error:
                raise ValueError(
                    f'--cfg-options {word}: {error}. Quote the whole word for the shell, e.g. '
                    f'"{key}=[1, 2]" or "{key}=dict(type=\'Name\', size=3)".'
                ) from error
        setattr(namespace, self.dest, options)


def argument_parser(
    description: str | None, prog: str | None = None, needs_config: bool = True
) -> argparse.ArgumentParser:
    """Return the arguments of every tool with a Runner, named as in OpenMMLab.

    Args:
        description: What the tool does.
        prog: Its name in messages.
        needs_config: Whether it cannot do without a config.
    """
    parser = argparse.ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'config',
        nargs=None if needs_config else '?',
        help='path of a config, or name of one of this project, METHOD/NAME',
    )
    names = ['--work-dir'] if needs_config else ['--work-dir', '--out']
    parser.add_argument(*names, help='where logs, checkpoints and results go (default: work_dirs/CONFIG_NAME)')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        metavar='KEY=VALUE',
        help='changes to the config, e.g. model.unmix.type=UnMix train_dataloader.batch_size=64',
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load checkpoints that hold more than weights and logs too: they can execute any code',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local-rank', '--local_rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser


def configure(args: argparse.Namespace) -> Config:
    """Read the config that the arguments name, and merge them into it."""
    if args.trust_checkpoint:
        trust_checkpoints()
    cfg = load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', Path(cfg.filename).stem)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return cfg


PICTURES = ('.png', '.jpg', '.jpeg', '.pdf', '.svg', '.webp')


def picture_file(path: str) -> str:
    """Return the path of a picture to write, a ``type`` of argparse: other suffixes are errors of the command line."""
    if Path(path).suffix.lower() not in PICTURES:
        raise argparse.ArgumentTypeError(f'{path!r} is no picture to write: end it in {", ".join(PICTURES)}')
    return path


def build_runner(cfg: Config, pretrained: bool = True) -> Runner | FlexibleRunner:
    """Build the Runner of a config, or the FlexibleRunner if it has a ``strategy``, on the devices of this machine.

    Weights named ``unmix::NAME`` are downloaded first, and a run becomes its newest checkpoint, so that results can
    name their file.

    Args:
        cfg: The config.
        pretrained: Whether ``model.pretrained`` is needed; not where ``load_from`` gives all weights.

    Raises:
        PermissionError: If the work dir cannot be written to.
        ValueError: If the config has no model.
    """
    if cfg.get('model') is None:
        raise ValueError(f"{cfg.filename} has no model. Set one, such as model=dict(type='MoCo', ...).")
    try:
        try_folder(cfg.work_dir)
    except OSError as error:
        raise PermissionError(
            f'The work dir {cfg.work_dir} cannot be written to ({error.strerror}). Give another one by --work-dir.'
        ) from error
    named: list[tuple[Any, str]] = [(cfg, 'load_from')] + [(cfg.get('model'), 'pretrained')] * pretrained
    for node, key in named:
        if isinstance(node, Config | ConfigDict) and isinstance(name := node.get(key), str):
            if name.startswith('unmix::'):
                node[key] = str(unmix.zoo.download(name))
            elif os.path.isdir(os.path.expanduser(name)):
                node[key] = str(checkpoint_of(name))
    if cfg.get('num_threads'):
        torch.set_num_threads(cfg.num_threads)
    init_cpu_distributed(cfg)
    runner: Runner | FlexibleRunner = (FlexibleRunner if cfg.get('strategy') else Runner).from_cfg(cfg)
    return runner
