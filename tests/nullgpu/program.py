"""Run a program on the null GPU with what replaces what cannot run there; ``__main__.py`` starts it in each process."""

import os
import runpy
import sys
import traceback

from .device import without_cudnn, without_linalg_errors


def main() -> None:
    """Run the script, or the module after ``-m``, of the arguments; end without destructors, which ask the device."""
    without_cudnn()
    without_linalg_errors()
    status = 0
    try:
        if sys.argv[1] == '-m':
            sys.argv = sys.argv[2:]
            runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
        else:
            sys.argv = sys.argv[1:]
            sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
            runpy.run_path(sys.argv[0], run_name='__main__')
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == '__main__':
    main()
