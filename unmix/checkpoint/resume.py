"""Resumption: gradients of a begun step, the position in the epoch, checks of the checkpoint, and the command."""

import difflib
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from unmix.checkpoint.identity import FREE
from unmix.models.algorithms.base import BaseAlgorithm
from unmix.utils.accumulation import between_steps, optim_wrappers
from unmix.utils.clock import Step
from unmix.utils.dist import unwrap

KEY = 'step'  # entry of a checkpoint
_LINES = 20


class StepRemainder(Hook):
    """Keeps the accumulated gradients of each rank in checkpoints: ``{name: (...)}``.

    Only a checkpoint in the middle of an accumulation has them, so that an interval that is a multiple of
    ``accumulative_counts`` costs nothing. :class:`TrainLoop` owns this hook. All ranks call :meth:`collect`, since
    rank 0 alone builds a checkpoint.

    Args:
        extend: As for :class:`TrainLoop`.
    """

    def __init__(self, extend: bool = False) -> None:
        self._extend = extend
        self._collected: list[dict[str, Tensor]] | None = None
        self._loaded: tuple[int, dict[str, Any]] | None = None

    def collect(self, runner: Runner) -> None:
        """Send the gradients of all ranks to rank 0; call it on every rank, before ``save_checkpoint``."""
        self._collected = None if between_steps(runner.optim_wrapper) else gather_object(_gradients(runner), dst=0)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the gradients and the number of processes."""
        if self._collected is None and not between_steps(runner.optim_wrapper):
            self._collected = [_gradients(runner)]
        checkpoint[KEY] = dict(gradients=self._collected or [], world_size=get_world_size())
        self._collected = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Remember the gradients; if the run is resumed, compare the checkpoint with the run.

        Raises:
            ValueError: If the run cannot be resumed from the checkpoint.
        """
        if runner._resume:
            check_resumable(runner, checkpoint)
            if changes := config_changes(checkpoint['meta'].get('cfg', ''), runner.cfg.pretty_text):
                kept = 'Seed and settings of the optimiser that no schedule moves'
                if not self._extend:
                    kept = 'Seed, learning rates, other settings of the optimiser, and schedules'
                runner.logger.warning(
                    f'The config has changed since this checkpoint was written (-: then, +: now). {kept} are those of '
                    f'the checkpoint:\n{changes}'
                )
            follow_length(runner, checkpoint, self._extend)
            then, now = checkpoint.get(KEY, {}).get('world_size'), get_world_size()
            if then not in (None, now):
                runner.logger.warning(
                    f'The checkpoint is of a run of {then} processes, and there are {now} now: '
                    'the batches will differ from those of an uninterrupted run.'
                )
        self._loaded = checkpoint.get('meta', {}).get('iter', 0), checkpoint.pop(KEY, {})

    def restore(self, runner: Runner) -> None:
        """Put the gradients back if the run is resumed; do nothing if it only starts from the weights."""
        for wrapper in optim_wrappers(runner.optim_wrapper):
            wrapper._global_step = 0  # otherwise MMEngine warns that schedulers step before the optimiser
        iteration, step = self._loaded or (0, {})
        self._loaded = None
        if runner.iter == 0 or runner.iter != iteration:
            return
        model = unwrap(runner.model)
        gradients = step.get('gradients', [])
        if len(gradients) == get_world_size():
            own = gradients[get_rank()]
            for name, parameter in model.named_parameters():
                parameter.grad = own[name].to(parameter.device) if name in own else None
        elif not between_steps(runner.optim_wrapper):
            runner.logger.warning(
                f'The checkpoint was written in the middle of a gradient accumulation, and has the gradients of '
                f'{len(gradients)} processes, but there are {get_world_size()} now: the next optimiser step is made '
                'without them.'
            )
        if isinstance(model, BaseAlgorithm) and step.get('momentum_moved') is False:
            # In checkpoints of old versions the momentum encoder has not yet moved; it moved in the next iteration.
            model.step = Step(iteration=runner.iter - 1)
            model.move_momentum_encoder()


def batches_done(runner: Runner, steps: int) -> int:
    """Return the number of batches of the current epoch that were done before the checkpoint.

    Args:
        runner: The Runner, after it has loaded the checkpoint.
        steps: Number of batches of an epoch now.

    Raises:
        ValueError: If the checkpoint was written in the middle of an epoch with another number of batches.
    """
    hub = runner.message_hub  # has the values of the run that wrote the checkpoint
    then = hub.get_info('max_iters', 0) // hub.get_info('max_epochs', 1) or steps
    done = runner.iter - runner.epoch * then
    if done != 0 and (then != steps or not 0 < done <= steps):
        raise ValueError(
            f'The checkpoint was written after {done} of {then} batches of epoch {runner.epoch + 1}, but an epoch has '
            f'{steps} batches now. Resume with the train_dataloader.batch_size, data set and number of processes '
            'of that run, or from a checkpoint at the end of an epoch.'
        )
    return done


def follow_length(runner: Runner, checkpoint: dict[str, Any], extend: bool) -> None:
    """Give the checkpoint the schedules of the config with ``extend``; else warn if the run has another length now.

    With ``extend`` the schedules of the config take the steps that the run has done, so that learning rates and
    schedules are those of a run that had the config from its start. Call it before MMEngine loads both.
    """
    schedulers = runner.param_schedulers
    groups = [schedulers] if isinstance(schedulers, list) else list((schedulers or {}).values())
    flat = [scheduler for group in groups for scheduler in group]
    info, meta = checkpoint['message_hub']['runtime_info'], checkpoint['meta']
    then, now, epoch = info.get('max_epochs'), runner.max_epochs, meta['epoch']
    if not flat:
        return
    if not extend:
        if then not in (None, now):
            runner.logger.warning(_schedules_stay(checkpoint, then, now))
        return
    if not isinstance(schedulers, list):
        raise ValueError('--extend works with one optimiser; this config has several')
    length = info.get('max_iters', 0) // (then or 1) or runner.max_iters // now
    begun = meta['iter'] - epoch * length  # iterations of the epoch that has begun
    runner.optim_wrapper._global_step = 0  # otherwise MMEngine warns that no optimiser step came first
    steps = runner.max_iters // now
    for iteration in range(1, epoch * steps + begun + 1):
        ends = iteration % steps == 0 and iteration // steps <= epoch  # the last epoch may have all iterations, no end
        for by_epoch in (False, True) if ends else (False,):
            for scheduler in flat:
                if scheduler.by_epoch == by_epoch and not getattr(scheduler, 'need_val_args', False):
                    scheduler.step()
    states = [dict(scheduler.state_dict()) for scheduler in flat]
    old = checkpoint['param_schedulers']
    checkpoint['param_schedulers'] = [
        old[i] if getattr(scheduler, 'need_val_args', False) else states[i] for i, scheduler in enumerate(flat)
    ]
    names = {scheduler.param_name for scheduler in flat}
    optimizer, wrapper = checkpoint['optimizer'], runner.optim_wrapper
    pairs = list(zip(optimizer['param_groups'], wrapper.optimizer.param_groups, strict=True))
    if 'base_param_settings' in optimizer:  # MMEngine schedules it as one more group; of several it logs its rate
        pairs.append((optimizer['base_param_settings'], wrapper.base_param_settings))
    for group, own in pairs:
        group.update({key: own[key] for name in names for key in (name, f'initial_{name}') if key in own})
    runner.logger.info(f'The schedules are those of a run of {now} epochs (--extend)')


def _schedules_stay(checkpoint: Mapping[str, Any], then: int, now: int) -> str:
    meta, length = checkpoint['meta'], checkpoint['message_hub']['runtime_info'].get('max_iters', math.inf)
    if now < then:
        end = f'training ends before they do, after epoch {now}'
    elif meta['epoch'] >= then or meta['iter'] >= length:
        rate = f'{checkpoint["optimizer"]["param_groups"][0]["lr"]:.3g}'
        end = f'each schedule is over, and the learning rate stays at {rate}'
    else:
        end = f'after epoch {then} each schedule is over, and the learning rate stays at its last value'
    return (
        f'train_cfg.max_epochs was {then} and is {now} now, but the schedules are still those of {then} epochs: {end}. '
        f'--extend beside --resume gives the schedules of {now} epochs from here on.'
    )


def follow_seed(runner: Runner, dataloader: DataLoader[Any], built_with: int) -> None:
    """Give the sampler the seed of the Runner, which a resumed checkpoint changes after the sampler is built."""
    samplers: list[Any] = [dataloader.sampler, getattr(dataloader.batch_sampler, 'sampler', None)]
    for sampler in samplers:
        if getattr(sampler, 'seed', None) == built_with:  # a seed set in the config stays
            sampler.seed = runner.seed


def _gradients(runner: Runner) -> dict[str, Tensor]:
    named = unwrap(runner.model).named_parameters()
    return {name: parameter.grad.detach().cpu() for name, parameter in named if parameter.grad is not None}


def check_resumable(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose optimiser or schedules are missing, or of another kind than those of the run.

    MMEngine ignores missing ones, and loads the values of another kind.

    Raises:
        ValueError: If the checkpoint is refused.
    """
    source = runner._load_from or 'the latest one of the work dir'
    missing = [key for key in ('meta', 'message_hub', 'optimizer', 'param_schedulers') if key not in checkpoint]
    if missing and not (missing == ['param_schedulers'] and not runner.param_schedulers):
        raise ValueError(
            f'This checkpoint cannot be resumed ({source}): it has no {", ".join(missing)}. Resume another one, or '
            'start a new run from its weights: without --resume, by --cfg-options load_from=PATH'
        )
    pairs = []
    if isinstance(runner.optim_wrapper, OptimWrapper):
        groups = checkpoint['optimizer'].get('param_groups', []), runner.optim_wrapper.optimizer.param_groups
        pairs.append(('optim_wrapper.optimizer', *groups))
    if isinstance(runner.param_schedulers, list):
        own = [scheduler.state_dict() for scheduler in runner.param_schedulers]
        pairs.append(('param_scheduler', checkpoint.get('param_schedulers', []), own))
    for key, then, now in pairs:
        # A new version of the same kind only adds settings; of two kinds each has settings that the other lacks.
        if len(then) != len(now) or any(
            a.keys() - b.keys() and b.keys() - a.keys() for a, b in zip(then, now, strict=True)
        ):
            raise ValueError(
                f'{key} is not that of the run whose checkpoint is to be resumed ({source}): {_kinds(then, now)} then, '
                f'{_kinds(now, then)} now. Give the config of that run, or start a new run from its weights: without '
                '--resume, by --cfg-options load_from=PATH'
            )


def _kinds(states: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> str:
    """Return the number of states, and the settings that the others lack."""
    own = {name for state in states for name in state} - {name for state in others for name in state}
    return f'{len(states)} with {", ".join(sorted(own))}' if own else str(len(states))


def config_changes(then: str, now: str) -> str:
    """Return the changed lines between two texts of configs, except lines such as ``work_dir``."""
    lines = list(difflib.unified_diff(then.splitlines(), now.splitlines(), n=0, lineterm=''))[2:]
    lines = [line for line in lines if line[0] in '+-' and not FREE.match(line[1:])]
    more = [f'... and {len(lines) - _LINES} lines more'] if len(lines) > _LINES else []
    return '\n'.join(lines[:_LINES] + more)


def resume_command(config: str | None, work_dir: str) -> str:
    """Return one command that resumes the newest checkpoint of ``work_dir``.

    In ``tools/train.py`` and ``unmix train`` it is the command of this process with ``--resume``, so that every option
    stays. In any other program it is ``tools/train.py`` with the config of the run.
    """
    own = Path(sys.argv[0]).stem in ('train', 'unmix')
    words = list(sys.argv) if own else ['tools/train.py', config or 'CONFIG']
    if '--work-dir' not in words:
        words += ['--work-dir', work_dir]
    if words[-1] != '--resume':  # argparse uses the last one
        words.append('--resume')
    return f'  {shlex.join([*_launcher(Path(words[0])), *words])}'


def _launcher(program: Path) -> list[str]:
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        return ['python'] if program.suffix == '.py' else []
    nodes = os.environ.get('GROUP_WORLD_SIZE', '1')
    return ['torchrun', f'--nnodes={nodes}', f'--nproc_per_node={os.environ.get("LOCAL_WORLD_SIZE", "1")}']
