"""What of a step is left over between two iterations, and where a run goes on."""

from typing import Any

from mmengine.dist import gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from unmix.checkpoint.resume_check import check_resumable, config_changes
from unmix.models.algorithms.base import BaseAlgorithm
from unmix.utils.accumulation import between_steps, optim_wrappers
from unmix.utils.clock import Step
from unmix.utils.dist import unwrap

KEY = 'step'  # of a checkpoint


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

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add what is left over."""
        if self._collected is None and not between_steps(runner.optim_wrapper):
            self._collected = [_gradients(runner)]
        checkpoint[KEY] = dict(gradients=self._collected or [], world_size=get_world_size())
        self._collected = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
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


def follow_seed(runner: Runner, dataloader: DataLoader, built_with: int) -> None:
    """Let the sampler follow the Runner's seed, which a resumed checkpoint has changed after the sampler was built."""
    samplers: list[Any] = [dataloader.sampler, getattr(dataloader.batch_sampler, 'sampler', None)]
    for sampler in samplers:
        if getattr(sampler, 'seed', None) == built_with:  # a seed of its own stays
            sampler.seed = runner.seed


def _gradients(runner: Runner) -> dict[str, Tensor]:
    named = unwrap(runner.model).named_parameters()
    return {name: parameter.grad.detach().cpu() for name, parameter in named if parameter.grad is not None}
