"""Policies for a training step that was left out because loss or gradient was not finite."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from unmix.checkpoint.latest import PASSING, find_latest_checkpoint
from unmix.engine.loops import TrainLoop
from unmix.engine.step import TrainStep
from unmix.registry import HOOKS

POLICIES = ('stop', 'skip', 'rollback')
ADVICE = (
    'Lower optim_wrapper.optimizer.lr or warm it up, add optim_wrapper.clip_grad=dict(max_norm=1.0), or look for a '
    'damaged image among those of the batch.'
)


@HOOKS.register_module()
class FiniteLossHook(Hook):
    """Leave out steps whose loss or gradient is NaN or infinite; see docs/health.md.

    Such a step changes neither weights nor state, on any rank (:class:`TrainStep`). A checkpoint of the moment before
    the step is written to ``captures/iter_N.pth`` in the work dir; ``tools/misc/replay.py`` repeats the step from it.
    Then, by policy: ``'stop'``: the run ends with an error; ``'skip'``: it goes on with the next batch; ``'rollback'``:
    it goes on with the next batch from the weights and the optimiser's state of the newest checkpoint. Iteration,
    schedules and data go on in any case: the same batch on the same weights would fail again.

    Models that are sharded over the ranks (FSDP) are not captured, and their policy is ``'stop'``. Optimisers that are
    no ``OptimWrapper`` of MMEngine, and other loops than :class:`TrainLoop`, are not watched, with a warning; in other
    loops this hook only moves the state after each step.

    Args:
        policy: ``'stop'``, ``'skip'`` or ``'rollback'``.
        max_failures: Number of times that a run, interruptions included, may skip or roll back before it stops.

    Raises:
        ValueError: If the policy is unknown, or not possible for the model; in training, if the run has to stop.
    """

    priority = 'VERY_HIGH'  # before hooks that schedule, look at features, or save

    def __init__(self, policy: str = 'stop', max_failures: int = 3) -> None:
        if policy not in POLICIES:
            raise ValueError(
                f'default_hooks.finite_loss.policy is {policy!r}; it is one of {", ".join(map(repr, POLICIES))}.'
            )
        self.policy, self.max_failures = policy, max_failures
        self._step: TrainStep | None = None
        self._commits = False  # in loops that do not

    def before_train(self, runner: Runner) -> None:
        """Start to check the steps."""
        loop = runner.train_loop
        self._commits = not isinstance(loop, TrainLoop)
        step = loop.step if isinstance(loop, TrainLoop) else TrainStep(runner.model, runner.optim_wrapper)
        self._step = step
        if self._commits or not step.start_watching():
            runner.logger.warning(
                'FiniteLossHook does not watch this training: it needs train_cfg.type="TrainLoop" and an optim_wrapper '
                f'that is an OptimWrapper; these are {type(loop).__name__} and '
                f'{type(runner.optim_wrapper).__name__}.'
            )
            return
        if self.policy != 'stop' and not _is_whole(runner):
            raise ValueError(
                f'default_hooks.finite_loss.policy is {self.policy!r}, but a step of a {type(runner.model).__name__} '
                "cannot be left out; set it to 'stop'."
            )
        step.left_out = bool(runner.message_hub.get_info('step_left_out', False))  # resumed while accumulating

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """If the step was left out: write the capture, and follow the policy."""
        step, hub = self._step, runner.message_hub
        assert step is not None
        if self._commits:
            step.commit()
        if not step.watch:
            return
        if hub.get_info('step_left_out', False) != step.left_out:
            hub.update_info('step_left_out', step.left_out)
        if step.failed is None:
            return
        failures = int(hub.get_info('nonfinite_losses', 0)) + 1
        hub.update_info('nonfinite_losses', failures)
        losses = {name: float(value.detach()) for name, value in (outputs or {}).items()}
        terms = ', '.join(f'{name} {value:g}' for name, value in losses.items())
        message = (
            f'The {step.failed} of iteration {runner.iter + 1} (batch {batch_idx} of epoch {runner.epoch + 1}) is not '
            f'finite on some process ({terms} on this one); the optimiser step is left out. '
            + (' '.join(step.reasons) or ADVICE)
        )
        if _is_whole(runner):
            message += _capture(runner, losses, data_batch)
        if self.policy == 'stop' or failures > self.max_failures:
            often = f' This is number {failures} of at most {self.max_failures}.' if self.policy != 'stop' else ''
            raise ValueError(message + often)
        if self.policy == 'rollback':
            message += f' Going on from {_roll_back(runner)}, after this batch.'
        runner.logger.warning(f'{message} Failure {failures} of at most {self.max_failures}.')


def _is_whole(runner: Runner) -> bool:
    """Whether each rank has the whole model."""
    return not is_model_wrapper(runner.model) or isinstance(runner.model, DistributedDataParallel)


def _capture(runner: Runner, losses: Mapping[str, float], batch: Any) -> str:
    """Write a checkpoint of the moment before the step; say where. All ranks call it."""
    index = batch.get('index') if isinstance(batch, Mapping) else None
    own = dict(losses=dict(losses), index=index.tolist() if isinstance(index, Tensor) else index)
    meta = dict(epoch=runner.epoch, iter=runner.iter, failed_step=all_gather_object(own))
    folder, name = Path(runner.work_dir, 'captures'), f'iter_{runner.iter + 1}.pth'
    try:
        runner.save_checkpoint(str(folder), name, meta=meta, by_epoch=False)
    except (OSError, ValueError) as error:  # the disk is full, or the weights were not finite before; the policy holds
        return f' No capture: {error}.'
    return f' To take the step again: python tools/misc/replay.py {folder / name}'


def _roll_back(runner: Runner) -> str:
    """Load weights and the optimiser's state, but not its learning rates, which the schedules go on from."""
    hub = runner.message_hub  # names no checkpoint of another run in the work dir
    own = hub.get_info('last_ckpt') or hub.get_info(PASSING)
    path = find_latest_checkpoint(runner.work_dir) if own else None
    if path is None:
        raise ValueError(
            "default_hooks.finite_loss.policy is 'rollback', but this run has no checkpoint yet. Save "
            'more often (default_hooks.checkpoint.interval), or use the policy skip.'
        )
    optimizer = runner.optim_wrapper.optimizer
    current = [{key: value for key, value in group.items() if key != 'params'} for group in optimizer.param_groups]
    checkpoint = runner.load_checkpoint(path, map_location='cpu')
    runner.optim_wrapper.load_state_dict(checkpoint['optimizer'])
    for group, values in zip(optimizer.param_groups, current, strict=True):
        group.update(values)
    return path
