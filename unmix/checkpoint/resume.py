"""How a run goes on: what of a step is left over, from which batch, whether it can, and by which command."""

import difflib
import os
import re
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

from unmix.models.algorithms.base import BaseAlgorithm
from unmix.utils.accumulation import between_steps, optim_wrappers
from unmix.utils.clock import Step
from unmix.utils.dist import unwrap

KEY = 'step'  # of a checkpoint
# Top-level keys of a config that say where and how it runs, not what.
_FREE = re.compile(r'[+-](experiment_name|launcher|load_from|resume|work_dir) = ')
_LINES = 20


class StepRemainder(Hook):
    """Keeps in checkpoints what is neither weight nor optimiser state, but decides about the next optimiser step.

    * Gradients that are being accumulated, those of each rank: ``{name: (...)}``. Only in the middle of an
      accumulation, so a checkpoint interval that is a multiple of ``accumulative_counts`` costs nothing.

    :class:`TrainLoop` has one. :meth:`collect` is for all ranks, since rank 0 alone builds a checkpoint.
    """

    def __init__(self) -> None:
        self._collected: list[dict[str, Tensor]] | None = None
        self._loaded: tuple[int, dict[str, Any]] | None = None

    def collect(self, runner: Runner) -> None:
        """Let rank 0 know the gradients of all ranks; call it on every rank, before ``save_checkpoint``."""
        self._collected = None if between_steps(runner.optim_wrapper) else gather_object(_gradients(runner), dst=0)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add what is left over."""
        if self._collected is None and not between_steps(runner.optim_wrapper):
            self._collected = [_gradients(runner)]
        checkpoint[KEY] = dict(gradients=self._collected or [], world_size=get_world_size())
        self._collected = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Remember what was left over; if the run is to go on from there, compare the two.

        Raises:
            ValueError: If it cannot.
        """
        if runner._resume:
            check_resumable(runner, checkpoint)
            if changes := config_changes(checkpoint['meta'].get('cfg', ''), runner.cfg.pretty_text):
                runner.logger.warning(
                    'The config has changed since this checkpoint was written (-: then, +: now). Seed, learning rates, '
                    f'other settings of the optimiser, and schedules stay as they were then:\n{changes}'
                )
            then, now = checkpoint.get(KEY, {}).get('world_size'), get_world_size()
            if then not in (None, now):
                runner.logger.warning(
                    f'The checkpoint is of a run of {then} processes, and there are {now} now: '
                    'its batches will not be those of an uninterrupted run.'
                )
        self._loaded = checkpoint.get('meta', {}).get('iter', 0), checkpoint.pop(KEY, {})

    def restore(self, runner: Runner) -> None:
        """Put it back, if the run goes on where the checkpoint stands; not if it only starts from its weights."""
        for wrapper in optim_wrappers(runner.optim_wrapper):
            wrapper._global_step = 0  # or MMEngine warns of schedulers that step before it
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
                f'The checkpoint stands in the middle of a gradient accumulation, and has the gradients of '
                f'{len(gradients)} processes, but there are {get_world_size()} now: the optimiser step that was begun '
                'goes on without them.'
            )
        if isinstance(model, BaseAlgorithm) and step.get('momentum_moved') is False:
            # The first checkpoints were written before the momentum encoder moved, which was in the next iteration.
            model.step = Step(iteration=runner.iter - 1)
            model.move_momentum_encoder()


def batches_done(runner: Runner, steps: int) -> int:
    """Return how many batches of the current epoch a resumed checkpoint has behind it.

    Args:
        runner: The Runner, after it has loaded the checkpoint.
        steps: Batches of an epoch now.

    Raises:
        ValueError: If the checkpoint stands in the middle of an epoch that had another number of batches.
    """
    hub = runner.message_hub  # holds what the checkpoint's run has said
    then = hub.get_info('max_iters', 0) // hub.get_info('max_epochs', 1) or steps
    done = runner.iter - runner.epoch * then
    if done != 0 and (then != steps or not 0 < done <= steps):
        raise ValueError(
            f'The checkpoint stands after {done} of {then} batches of epoch {runner.epoch + 1}, but an epoch has '
            f'{steps} batches now. Resume with the train_dataloader.batch_size, data set and number of processes '
            'of that run, or from a checkpoint at the end of an epoch.'
        )
    return done


def follow_seed(runner: Runner, dataloader: DataLoader[Any], built_with: int) -> None:
    """Let the sampler follow the Runner's seed, which a resumed checkpoint has changed after the sampler was built."""
    samplers: list[Any] = [dataloader.sampler, getattr(dataloader.batch_sampler, 'sampler', None)]
    for sampler in samplers:
        if getattr(sampler, 'seed', None) == built_with:  # a seed of its own stays
            sampler.seed = runner.seed


def _gradients(runner: Runner) -> dict[str, Tensor]:
    named = unwrap(runner.model).named_parameters()
    return {name: parameter.grad.detach().cpu() for name, parameter in named if parameter.grad is not None}


def check_resumable(runner: Runner, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose optimiser or schedules are not there, or are of another kind than the run's.

    MMEngine goes on without those that are not there, and fills the others' values in.

    Raises:
        ValueError: If so.
    """
    source = runner._load_from or 'the latest one of the work dir'
    missing = [key for key in ('meta', 'message_hub', 'optimizer', 'param_schedulers') if key not in checkpoint]
    if missing and not (missing == ['param_schedulers'] and not runner.param_schedulers):
        raise ValueError(
            f'No training can go on from this checkpoint ({source}): it has no {", ".join(missing)}. Resume another '
            'one, or start anew from its weights: without --resume, by --cfg-options load_from=PATH'
        )
    pairs = []
    if isinstance(runner.optim_wrapper, OptimWrapper):
        groups = checkpoint['optimizer'].get('param_groups', []), runner.optim_wrapper.optimizer.param_groups
        pairs.append(('optim_wrapper.optimizer', *groups))
    if isinstance(runner.param_schedulers, list):
        own = [scheduler.state_dict() for scheduler in runner.param_schedulers]
        pairs.append(('param_scheduler', checkpoint.get('param_schedulers', []), own))
    for key, then, now in pairs:
        if len(then) != len(now) or any(_of_another_kind(*pair) for pair in zip(then, now, strict=True)):
            raise ValueError(
                f'{key} is not that of the run whose checkpoint is to be resumed ({source}): {_kinds(then, now)} then, '
                f'{_kinds(now, then)} now. Give the config of that run, or start anew from its weights: without '
                '--resume, by --cfg-options load_from=PATH'
            )


def _of_another_kind(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether each has settings that the other lacks; a new version of one kind adds some only."""
    return bool(then.keys() - now.keys()) and bool(now.keys() - then.keys())


def _kinds(states: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> str:
    """How many there are, and which settings they have that the others lack."""
    own = {name for state in states for name in state} - {name for state in others for name in state}
    return f'{len(states)} with {", ".join(sorted(own))}' if own else str(len(states))


def config_changes(then: str, now: str) -> str:
    """Say how two texts of configs differ, apart from where they run; empty if they do not."""
    lines = list(difflib.unified_diff(then.splitlines(), now.splitlines(), n=0, lineterm=''))[2:]
    lines = [line for line in lines if line[0] in '+-' and not _FREE.match(line)]
    more = [f'... and {len(lines) - _LINES} lines more'] if len(lines) > _LINES else []
    return '\n'.join(lines[:_LINES] + more)


def resume_command(config: str | None, work_dir: str) -> str:
    """Return one command that resumes the newest checkpoint of ``work_dir``.

    Under ``tools/train.py`` and ``unmix train`` it is this process's own command with ``--resume``, so that every
    option stays. In any other program it is ``tools/train.py`` with the run's config.
    """
    own = Path(sys.argv[0]).stem in ('train', 'unmix')
    words = list(sys.argv) if own else ['tools/train.py', config or 'CONFIG']
    if '--work-dir' not in words:
        words += ['--work-dir', work_dir]
    if words[-1] != '--resume':  # of several the last one counts
        words.append('--resume')
    return f'  {shlex.join([*_launcher(Path(words[0])), *words])}'


def _launcher(program: Path) -> list[str]:
    if 'TORCHELASTIC_RUN_ID' not in os.environ:
        return ['python'] if program.suffix == '.py' else []
    nodes = os.environ.get('GROUP_WORLD_SIZE', '1')
    return ['torchrun', f'--nnodes={nodes}', f'--nproc_per_node={os.environ.get("LOCAL_WORLD_SIZE", "1")}']
