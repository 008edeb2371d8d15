"""MMEngine's Runner with a console for people."""

from typing import Any

from mmengine.logging import MMLogger
from mmengine.runner import Runner as MMEngineRunner
from torch import nn

from unmix.checkpoint.resume import StepRemainder
from unmix.engine.console import quiet
from unmix.engine.sizes import sizes_explained
from unmix.engine.work_dir import sole_use


class Runner(MMEngineRunner):
    """Prints what a user wants to know; environment, config and the order of hooks go to the log file only."""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger as MMEngine does, with a filter on what it prints."""
        logger = super().build_logger(*args, **kwargs)
        quiet(logger)
        return logger

    def train(self) -> nn.Module:
        """Train as MMEngine does, if no other process trains in this work dir."""
        with sole_use(self.work_dir), sizes_explained(self):
            return super().train()

    def val(self) -> dict[str, float]:
        """Validate as MMEngine does."""
        with sizes_explained(self):
            return super().val()

    def test(self) -> dict[str, float]:
        """Test as MMEngine does."""
        with sizes_explained(self):
            return super().test()

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save as MMEngine does, with the gradients that are being accumulated on all ranks. Every rank calls it."""
        for hook in self.hooks:
            if isinstance(hook, StepRemainder):
                hook.collect(self)
        super().save_checkpoint(*args, **kwargs)
