"""Filter of the terminal output; the log file has everything."""

import logging
from typing import Any

# The last one says that gradients are lost; TrainLoop restores them, or warns itself.
_OWN = ('"FileClient"', '"HardDiskBackend"', 'Resumed iteration number is not divisible by')


def console_handlers(logger: logging.Logger) -> list[logging.StreamHandler[Any]]:
    """Return the handlers of a logger that print to a stream, not to a file."""
    handlers = [handler for handler in logger.handlers if isinstance(handler, logging.StreamHandler)]
    return [handler for handler in handlers if not isinstance(handler, logging.FileHandler)]


def quiet(logger: logging.Logger) -> None:
    """Keep banners, LoggerHook's lines, MMEngine's internal messages, and errors of log files off the terminal."""
    for handler in console_handlers(logger):
        handler.addFilter(_for_console)  # adding it twice has no effect
    for file in logger.handlers:
        if isinstance(file, logging.FileHandler):
            file.handleError = lambda record: None  # type: ignore[method-assign]  # on a full disk the log lacks lines


def _for_console(record: logging.LogRecord) -> bool:
    """Refuse environment, config and order of hooks, LoggerHook's lines, and MMEngine's own deprecations."""
    message = record.getMessage()
    banner = record.levelno <= logging.INFO and message.count('\n') > 3
    own = record.module == 'logger_hook' or message.startswith(_OWN)
    return not banner and not own
