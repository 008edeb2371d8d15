"""MMEngine's Runner with a console for people."""

from typing import Any

from mmengine.logging import MMLogger
from mmengine.runner import Runner as MMEngineRunner

from unmix.engine.console import quiet


class Runner(MMEngineRunner):
    """Prints what a user wants to know; environment, config and the order of hooks go to the log file only."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger as MMEngine does, with a filter on what it prints."""
        logger = super().build_logger(*args, **kwargs)
        quiet(logger)
        return logger
