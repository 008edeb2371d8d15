"""Run a Python program on the null GPU.

python -m tests.nullgpu [--ranks 2] [--libraries FOLDER] SCRIPT ARGUMENTS...
python -m tests.nullgpu -m MODULE ARGUMENTS...

Start it in the root of the checkout. The libraries are built for this run, which takes two seconds; with --libraries
they are built into a folder, or taken from it. The exit status is 0 if that of all ranks is.
"""

import sys
import tempfile
from pathlib import Path

from .build import Unavailable, build
from .launch import start


def main() -> int:
    arguments, ranks, folder = sys.argv[1:], 1, None
    while arguments and arguments[0] in ('--ranks', '--libraries') and len(arguments) > 1:
        if arguments[0] == '--ranks':
            ranks = int(arguments[1])
        else:
            folder = Path(arguments[1])
        arguments = arguments[2:]
    if not arguments or arguments[0] in ('-h', '--help'):
        print(__doc__)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        libraries = folder or Path(temporary)
        if not (libraries / 'libcuda.so.1').exists():
            libraries.mkdir(parents=True, exist_ok=True)
            try:
                build(libraries)
            except Unavailable as error:
                print(error, file=sys.stderr)
                return 2
        return max(abs(process.wait()) for process in start(arguments, libraries, ranks))


if __name__ == '__main__':
    sys.exit(main())
