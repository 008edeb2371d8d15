"""MMEngine's Runner, and the filter of what it prints; the log file has everything."""

import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import BaseLoop, TestLoop, ValLoop
from mmengine.runner import Runner as MMEngineRunner
from mmengine.visualization import Visualizer
from torch import nn

from unmix.checkpoint.resume import StepRemainder
from unmix.engine.device import compile_networks, set_matmul_precision
from unmix.engine.failures import failures_explained, keep_going
from unmix.engine.hooks.skip_hook import SkipHook
from unmix.engine.loader import build_dataloader
from unmix.engine.loggers import close_late
from unmix.engine.loops.feature_loop import check_classes
from unmix.engine.sizes import sizes_explained
from unmix.engine.skipped import refuse_skipping
from unmix.engine.work_dir import sole_use

# The last one says that gradients are lost; TrainLoop restores them, or warns itself.
_OWN = ('"FileClient"', '"HardDiskBackend"', 'Resumed iteration number is not divisible by')


class NoTraining(BaseLoop):
    """Training loop of a Runner that only evaluates: it has not begun, and needs no data.

    Args:
        cfg: ``train_cfg``, for the length of the training; unknown lengths are unlimited.
    """

    stop_training = False
    epoch = iter = 0

    def __init__(self, cfg: Mapping[str, Any]) -> None:
        self.max_epochs, self.max_iters = (cfg.get(key, sys.maxsize) for key in ('max_epochs', 'max_iters'))

    def run(self) -> None:
        """Do nothing."""


class Evaluating:
    """Part of both Runners: ``val`` and ``test`` build nothing of the training, and leave its config as it is.

    MMEngine builds the training loop, with its data, as soon as a hook reads ``iter``, ``epoch``, ``max_iters`` or
    ``train_loop``. Here such a hook sees :class:`NoTraining`, unless the model was trained in this process or the
    Runner resumes a training.
    """

    cfg: Config
    work_dir: str
    _train_loop: Any
    _resume: bool
    _evaluates = False

    @property
    def train_loop(self) -> BaseLoop:
        """Return the training loop, built when it is first read; in an evaluation :class:`NoTraining`."""
        if self._evaluates and isinstance(self._train_loop, dict):
            return NoTraining(self._train_loop)
        return super().train_loop  # type: ignore[misc]

    def dump_config(self) -> None:
        """Write the config to the work dir; where a training has left one of that name, only a training replaces it."""
        name = self.cfg.filename
        if name is None or not os.path.exists(os.path.join(self.work_dir, os.path.basename(name))):
            super().dump_config()  # type: ignore[misc]

    def train(self) -> nn.Module:
        """Train as MMEngine does, if no other process trains in this work dir."""
        with sole_use(self.work_dir), sizes_explained(self), failures_explained(self):
            super().dump_config()  # type: ignore[misc]
            return super().train()  # type: ignore[misc]

    def val(self) -> dict[str, float]:
        """Validate as MMEngine does."""
        with self._evaluation():
            return super().val()  # type: ignore[misc]

    def test(self) -> dict[str, float]:
        """Test as MMEngine does."""
        with self._evaluation():
            return super().test()  # type: ignore[misc]

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        self._evaluates = not self._resume
        try:
            with sizes_explained(self), failures_explained(self):
                yield
        finally:
            self._evaluates = False


class Runner(Evaluating, MMEngineRunner):
    """Prints what a user wants to know; environment, config and the order of hooks go to the log file only."""

    build_dataloader = staticmethod(build_dataloader)

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """Set up the process as MMEngine does, and the precision of products: ``env_cfg.matmul_precision``."""
        set_matmul_precision(env_cfg.get('matmul_precision'))
        super().setup_env(env_cfg)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger as MMEngine does, with a filter on what it prints."""
        logger = super().build_logger(*args, **kwargs)
        quiet(logger)
        return logger

    def build_visualizer(self, visualizer: Visualizer | dict[str, Any] | None = None) -> Visualizer:
        """Build the visualizer as MMEngine does; a backend that fails later does not end the training.

        Its figure is made when it is needed, see :class:`unmix.visualization.LazyVisualizer`. W&B and MLflow stay open
        for the results of the test, see :func:`close_late`.
        """
        built = super().build_visualizer(
            visualizer or dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
        )
        keep_going(built)
        close_late(built)
        return built

    def build_val_loop(self, loop: BaseLoop | dict[str, Any]) -> BaseLoop:
        """Build the loop as MMEngine does; check that what a classifier learns is what it is validated on.

        Raises:
            ValueError: If a label means another class in the data to train on, or MMEngine's loop would count images
                twice (:func:`refuse_skipping`).
        """
        built = super().build_val_loop(loop)
        if isinstance(built, ValLoop):
            refuse_skipping(built, 'val')
        if isinstance(built, ValLoop) and isinstance(self._train_loop, BaseLoop):
            check_classes(built.dataloader.dataset, self.train_dataloader.dataset, 'train_dataloader')
        return built

    def build_test_loop(self, loop: BaseLoop | dict[str, Any]) -> BaseLoop:
        """Build the loop as MMEngine does.

        Raises:
            ValueError: If MMEngine's loop would count images twice (:func:`refuse_skipping`).
        """
        built = super().build_test_loop(loop)
        if isinstance(built, TestLoop):
            refuse_skipping(built, 'test')
        return built

    def _maybe_compile(self, target: str) -> None:
        """Compile the networks of the model if ``compile`` says so; a model without such is compiled by MMEngine."""
        options = self.cfg.get('compile')
        if options in (None, False) or not compile_networks(self.model, {} if options is True else options):
            super()._maybe_compile(target)

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save as MMEngine does, with what waits on all ranks: gradients, names of skipped images. All call it."""
        for hook in self.hooks:
            if isinstance(hook, StepRemainder | SkipHook):
                hook.collect(self)
        super().save_checkpoint(*args, **kwargs)


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
            if isinstance(file.stream, io.TextIOWrapper):  # names of files may be no text in the locale's encoding
                file.stream.reconfigure(encoding='utf-8', errors='surrogateescape')
            file.handleError = lambda record: None  # type: ignore[method-assign]  # on a full disk the log lacks lines


def _for_console(record: logging.LogRecord) -> bool:
    """Refuse environment, config and order of hooks, LoggerHook's lines, lines of single parameters, and MMEngine's own
    deprecations."""
    message = record.getMessage()
    banner = record.levelno <= logging.INFO and message.count('\n') > 3
    own = record.module == 'logger_hook' or message.startswith(_OWN)
    parameter = message.startswith('paramwise_options -- ') or message.endswith('since its requires_grad=False')
    return not banner and not own and not parameter
