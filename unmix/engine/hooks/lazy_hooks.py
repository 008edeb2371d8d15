"""MMEngine's two bookkeeping hooks without their cost per iteration."""

import time
from typing import Any

from mmengine.hooks import IterTimerHook, RuntimeInfoHook
from mmengine.logging import MessageHub
from mmengine.runner import Runner

from unmix.engine.hooks.scalar_buffer import bound_scalar, push_scalar
from unmix.registry import HOOKS


@HOOKS.register_module()
class LazyRuntimeInfoHook(RuntimeInfoHook):
    """Hands epoch, iteration, learning rate and losses to the message hub, losses as tensors that nobody waits for.

    The message hub has the same keys and values as with MMEngine's hook at any time. Only its histories are shorter:
    at least one epoch, and every window the log processor uses. Histories of other hooks are bounded too.
    """

    def before_train(self, runner: Runner) -> None:
        """Decide how much history is kept."""
        super().before_train(runner)
        self.length = history_length(runner)

    def before_train_epoch(self, runner: Runner) -> None:
        """Bound the histories that other hooks have opened."""
        super().before_train_epoch(runner)
        for key in runner.message_hub.log_scalars:
            bound_scalar(runner.message_hub, key, self.length)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note the iteration and the learning rates."""
        hub: MessageHub = runner.message_hub
        hub.update_info('iter', runner.iter)
        for name, values in runner.optim_wrapper.get_lr().items():
            push_scalar(hub, f'train/{name}', values[0], self.length)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Note the loss terms."""
        for name, value in (outputs or {}).items():
            push_scalar(runner.message_hub, f'train/{name}', value, self.length)


@HOOKS.register_module()
class LazyTimerHook(IterTimerHook):
    """Notes ``time`` and ``data_time`` of each iteration and the time left, like MMEngine's hook."""

    def before_train(self, runner: Runner) -> None:
        """Start counting from the iteration resumed."""
        super().before_train(runner)
        self.t = time.time()
        self.length = history_length(runner)
        self._done, self._todo = 0, runner.max_iters - runner.iter

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note how long the batch was waited for."""
        push_scalar(runner.message_hub, 'train/data_time', time.time() - self.t, self.length)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Note how long the iteration took, the wait included."""
        now = time.time()
        push_scalar(runner.message_hub, 'train/time', now - self.t, self.length)
        self.time_sec_tot += now - self.t
        self.t = now
        self._done += 1
        runner.message_hub.update_info('eta', self.time_sec_tot / self._done * (self._todo - self._done))


def history_length(runner: Runner) -> int:
    """Values to keep of each scalar: one epoch, and the widest window of the log processor."""
    processor = runner.log_processor
    windows = [processor.window_size, *(cfg.get('window_size', 1) for cfg in processor.custom_cfg)]
    numbers = [window for window in windows if isinstance(window, int)]
    return max(len(runner.train_dataloader), *numbers, 1_000_000 if 'global' in windows else 1)
