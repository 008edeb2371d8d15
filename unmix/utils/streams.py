"""What a command prints: errors that a user can correct, and output that another program reads."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OFF = ('', '0', 'false', 'no', 'off')  # values of UNMIX_DEBUG
# Errors whose message says what to do; any other is a defect and keeps its traceback.
USER_ERRORS = (ValueError, OSError, KeyError, TypeError, ImportError)


@contextmanager
def reader_may_leave() -> Iterator[None]:
    """Exit without a message where the reader of the output has closed it, as ``head`` does."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        sys.exit(1)


def run_tool(main: Callable[[], None]) -> None:
    """Run a tool; an error that the user can correct becomes one message on stderr and exit status 1.

    ``UNMIX_DEBUG=1`` in the environment shows the traceback. Output is UTF-8, whatever the locale is.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding='utf-8', errors='surrogateescape')  # keeps the bytes of any file name
    try:
        main()
    except USER_ERRORS as error:
        if os.environ.get('UNMIX_DEBUG', '').lower() not in OFF:
            raise
        print(f'\nerror: {_message(error)}\n(UNMIX_DEBUG=1 shows the traceback)', file=sys.stderr)
        sys.exit(1)


def _message(error: Exception) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if text.startswith('Caught ') and 'Original Traceback' in text:  # in a worker of a DataLoader; ours are one line
        text = text.rstrip().rpartition('\n')[2].partition(': ')[2]
    return text
