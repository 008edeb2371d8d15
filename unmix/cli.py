"""The command ``unmix``; it works in any directory, from a checkout and from an installed package.

PyTorch and MMEngine, whose import takes seconds, are imported by what needs them: not for ``--version`` and ``--help``.
"""

import argparse
import pkgutil
import sys
from collections.abc import Sequence
from functools import partial

from unmix.utils.streams import reader_may_leave, run_tool
from unmix.version import __version__

# By name: the function of arguments and name in messages, and its description.
COMMANDS = {
    'train': ('unmix.apis.train:train', 'pre-train, or train a classifier, by a config'),
    'test': ('unmix.apis.train:evaluate', 'evaluate a checkpoint by the protocol of a config'),
    'features': ('unmix.apis.features:features', 'write the features of a folder of images to a file'),
    'doctor': ('unmix.apis.doctor:doctor', 'what is wrong with the images of a folder or a config'),
    'list': ('unmix.apis.zoo_commands:list_entries', 'models of the zoo with their figures, or configs'),
    'download': ('unmix.apis.zoo_commands:download', 'weights and config of a model'),
    'report': ('unmix.apis.report:report', 'make the report of a run again'),
    'compare': ('unmix.apis.compare:compare', 'several runs side by side: results, time, curves'),
    'runs': ('unmix.apis.runs:runs', 'list the runs in a folder'),
    'export': ('unmix.apis.export:export', 'the backbone of a run for torchvision, timm, ONNX, ...'),
    'convert': ('unmix.apis.convert:convert', 'checkpoints of other codes'),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; an error that the user can correct is one message, and the exit status is not 0.

    Raises:
        SystemExit: After an error, ``--help`` and ``--version``.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    listed = '\n'.join(f'  {name:10}{what}' for name, (_, what) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog='unmix',
        usage='unmix COMMAND ...',
        description='Self-supervised image representation learning with mixed images.',
        epilog=f'commands:\n{listed}\n\nunmix COMMAND --help tells more.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'unmix {__version__}')
    parser.add_argument('command', nargs='?', help=argparse.SUPPRESS)
    with reader_may_leave():
        name = words[0] if words and words[0] in COMMANDS else parser.parse_args(words).command
        if name is None:
            parser.print_help()
        elif name not in COMMANDS:
            from unmix.config.check import suggest

            parser.error(f'there is no command {name!r}. {suggest(name, COMMANDS)}')
        else:
            run_tool(partial(pkgutil.resolve_name(COMMANDS[name][0]), words[1:], prog=f'unmix {name}'))
