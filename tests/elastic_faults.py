"""Imported by the config of tests/test_elastic.py in each of its processes: a hook that kills its own process."""

import os
import signal
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from unmix.registry import HOOKS


@HOOKS.register_module()
class KillOnceHook(Hook):
    """SIGKILL to rank 1 before a given iteration, the first time it comes there."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Leave a note, and die."""
        note = Path(runner.work_dir, 'killed')
        if get_rank() == 1 and runner.iter == self.iteration and not note.exists():
            note.write_text(os.environ['TORCHELASTIC_RESTART_COUNT'], encoding='utf-8')
            os.kill(os.getpid(), signal.SIGKILL)
