"""Connects heads that tell instances apart with the data set, the optimiser and the checkpoints of a run."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from unmix.checkpoint.load import map_from_local
from unmix.engine.sizes import check_num_instances
from unmix.models.algorithms import BaseAlgorithm
from unmix.registry import HOOKS
from unmix.utils.dist import unwrap


@HOOKS.register_module()
class InstanceHook(Hook):
    """Check ``head.num_instances`` against the data set, and give the optimiser to the head (``head.follow``).

    When a checkpoint is saved, the head may remove files that no checkpoint needs (``head.saved``): the tables of
    :class:`RowsOnDisk`. Models that are no :class:`BaseAlgorithm` are left alone.

    Raises:
        ValueError: If the data set has more images than the head has instances.
    """

    priority = 'LOWEST'  # after CheckpointHook, which waits until the checkpoint before this one is written

    def before_train(self, runner: Runner) -> None:
        """Check the data set and give the optimiser to the head; a checkpoint has been loaded by then."""
        model = unwrap(runner.model)
        if not isinstance(model, BaseAlgorithm):
            return
        num_instances, num_images = model.head.num_instances, len(runner.train_dataloader.dataset)
        if num_instances is not None:
            check_num_instances(num_instances, num_images)
        if num_instances is not None and num_images < num_instances:
            runner.logger.warning(
                f'model.head.num_instances is {num_instances}, but the training data set has only {num_images} images: '
                f'the rest are never seen. --cfg-options model.head.num_instances={num_images}'
            )
        model.head.follow(runner.optim_wrapper.optimizer)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Let the head remove files, once the state of this checkpoint is complete. Rank 0 only."""
        model = unwrap(runner.model)
        if not isinstance(model, BaseAlgorithm):
            return
        try:
            model.head.saved(_state_dicts(runner))
        except ValueError as error:
            runner.logger.warning(f'No table of head.rows_dir is removed: {error}')


def _state_dicts(runner: Runner) -> Iterator[Mapping[str, Tensor]]:
    """Yield the state dict of each checkpoint of the run, captures included; a tensor is read when it is used.

    Raises:
        ValueError: If a file cannot be read.
    """
    last = runner.message_hub.get_info('last_ckpt', None)
    folders = {Path(runner.work_dir)} | ({Path(last).parent} if last else set())
    for path in {path for folder in folders for path in folder.rglob('*.pth')}:
        try:
            state_dict = map_from_local(path)['state_dict']
        except Exception as error:  # a damaged pickle can raise anything
            raise ValueError(f'{path} is no checkpoint, or damaged ({error}). Move it out of the run.') from error
        yield state_dict
