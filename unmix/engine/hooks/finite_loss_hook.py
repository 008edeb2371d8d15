"""No optimiser step is made on a loss that is not finite."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import wraps
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from unmix.checkpoint.latest import PASSING, find_latest_checkpoint
from unmix.engine.capture import capture_step, write_capture
from unmix.engine.loss_check import LossCheck
from unmix.engine.step_state import StepState
from unmix.registry import HOOKS
from unmix.utils.nan_reasons import watching

POLICIES = ('stop', 'skip', 'rollback')
ADVICE = (
    'Lower optim_wrapper.optimizer.lr or warm it up, add optim_wrapper.clip_grad=dict(max_norm=1.0), or look for a '
    'damaged image among those of the batch.'
)


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Leaves out the optimiser step of a batch whose loss is NaN or infinite, on all ranks; see docs/health.md.

    The state is taken back to before the forward pass (queues, banks and BatchNorm's statistics have seen the batch),
    and the step is written to ``captures/iter_N_rank_R.pth`` in the work dir for ``tools/misc/replay.py``. Then, by
    policy: ``'stop'``: the run ends with an error; ``'skip'``: it goes on with the next batch; ``'rollback'``: it goes
    on with the next batch from the weights and the optimiser's state of the newest checkpoint. Clock, schedules and
    data go on in any case: the same batch on the same weights would fail again. With gradient accumulation the whole
    optimiser step that the batch is part of is left out.

    The host reads whether the loss is finite after it has launched the backward pass, by an event that was recorded
    after the forward pass: while it waits, the device works. Ranks reduce one number.

    Of a model that is sharded over the ranks (FSDP) there is neither a way back nor a capture: the policy is
    ``'stop'``. Optimisers that are no ``OptimWrapper`` of MMEngine are not watched, with a warning.

    Args:
        policy: ``'stop'``, ``'skip'`` or ``'rollback'``.
        max_failures: How often a run, its interruptions included, may skip or roll back before it stops.

    Raises:
        ValueError: If the policy is another word or not for the model; in training, if the run has to stop.
    """

    priority = 'VERY_HIGH'  # before hooks that schedule, look at features, or save

    def __init__(self, policy: str = 'stop', max_failures: int = 3) -> None:
        if policy not in POLICIES:
            raise ValueError(
                f'default_hooks.finite_loss.policy is {policy!r}; it is one of {", ".join(map(repr, POLICIES))}.'
            )
        self.policy, self.max_failures = policy, max_failures
        self._wrapper: Any = None
        self._state: StepState | None = None
        self._check: LossCheck | None = None
        self._watch = ExitStack()
        self._reasons: list[str] = []  # why the loss of the batch at work is NaN, if a layer knows
        self._failed = False  # the batch at work
        self._left_out = False  # the optimiser step that is being accumulated

    def before_train(self, runner: Runner) -> None:
        """Put the guard before the optimiser's step."""
        wrapper: Any = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper):
            runner.logger.warning(f'FiniteLossHook does not watch the losses of a {type(wrapper).__name__}.')
            return
        if not is_model_wrapper(runner.model) or isinstance(runner.model, DistributedDataParallel):
            self._state = StepState(_model(runner), wrapper)
        elif self.policy != 'stop':
            raise ValueError(
                f'default_hooks.finite_loss.policy is {self.policy!r}, but a step of a {type(runner.model).__name__} '
                "cannot be taken back; set it to 'stop'."
            )
        self._wrapper = wrapper
        self._left_out = bool(runner.message_hub.get_info('step_left_out', False))  # resumed while accumulating
        update, step = wrapper.update_params, wrapper.step

        @wraps(update)
        def guarded_update(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            if self._state is not None:
                self._state.learn()
            self._check = LossCheck(loss)
            update(loss, *args, **kwargs)
            self._read()

        @wraps(step)  # the schedulers leave a mark on it
        def guarded_step(**kwargs: Any) -> None:
            self._read()
            if not self._left_out:
                step(**kwargs)
            else:
                runner.message_hub.update_info('step_left_out', False)
            self._left_out = False

        self._own = {name: vars(wrapper).get(name) for name in ('update_params', 'step')}
        wrapper.update_params, wrapper.step = guarded_update, guarded_step

    def _read(self) -> None:
        if self._check is not None:
            self._failed = not self._check.finite()
            self._left_out |= self._failed
            self._check = None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Hold on to the state before the step."""
        if self._wrapper is not None:
            self._reasons = self._watch.enter_context(watching())
        if self._state is not None:
            self._state.hold()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """If the loss was not finite: take the step back, capture it, and follow the policy."""
        self._watch.close()
        if not self._failed:
            return
        self._failed = False
        self._wrapper.zero_grad()  # of those that are being accumulated none is of use any more
        runner.message_hub.update_info('step_left_out', self._left_out)
        failures = int(runner.message_hub.get_info('nonfinite_losses', 0)) + 1
        runner.message_hub.update_info('nonfinite_losses', failures)
        terms = ', '.join(f'{name} {float(value.detach()):g}' for name, value in (outputs or {}).items())
        message = (
            f'The loss of iteration {runner.iter + 1} (batch {batch_idx} of epoch {runner.epoch + 1}) is not finite on '
            f'some process ({terms} on this one); the optimiser step is left out. '
            + (' '.join(self._reasons) or ADVICE)
        )
        if self._state is not None:
            message += self._capture(runner, self._state, data_batch, batch_idx, outputs or {})
        if self.policy == 'stop' or failures > self.max_failures:
            often = f' This is number {failures} of at most {self.max_failures}.' if self.policy != 'stop' else ''
            raise ValueError(message + often)
        if self.policy == 'rollback':
            message += f' Going on from {self._roll_back(runner)}, after this batch.'
        runner.logger.warning(f'{message} Failure {failures} of at most {self.max_failures}.')

    def _capture(
        self, runner: Runner, state: StepState, batch: Any, batch_idx: int, losses: Mapping[str, Tensor]
    ) -> str:
        """Take the step back and write it to a file; say where."""
        lost = state.restore()
        try:
            path = write_capture(capture_step(runner, _model(runner), batch, batch_idx, losses), runner.work_dir)
        except OSError as error:  # the disk is full, say; the policy holds all the same
            return f' No capture: {error}.'
        note = f' (not in their state before the step: {", ".join(lost)})' if lost else ''
        return f' To run the step again{note}: python tools/misc/replay.py {path}'

    def _roll_back(self, runner: Runner) -> str:
        """Load weights and the optimiser's state, but not its learning rates, which the schedules go on from."""
        hub = runner.message_hub  # knows of no checkpoint that another run has left in the work dir
        own = hub.get_info('last_ckpt') or hub.get_info(PASSING)
        path = find_latest_checkpoint(runner.work_dir) if own else None
        if path is None:
            raise ValueError(
                "default_hooks.finite_loss.policy is 'rollback', but this run has no checkpoint yet. Save "
                'more often (default_hooks.checkpoint.interval), or use the policy skip.'
            )
        groups = self._wrapper.optimizer.param_groups
        current = [{key: value for key, value in group.items() if key != 'params'} for group in groups]
        checkpoint = runner.load_checkpoint(path, map_location='cpu')
        self._wrapper.load_state_dict(checkpoint['optimizer'])
        for group, values in zip(self._wrapper.optimizer.param_groups, current, strict=True):
            group.update(values)
        return path

    def after_train(self, runner: Runner) -> None:
        """Take the guard away."""
        self._watch.close()
        if self._wrapper is not None:
            for name, own in self._own.items():
                delattr(self._wrapper, name)  # the class's method is behind it
                if own is not None:
                    setattr(self._wrapper, name, own)
            self._wrapper = self._state = None

    on_abort = after_train


def _model(runner: Runner) -> Any:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
