"""What heads that know every instance need to know of a training."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from unmix.engine.sizes import check_num_instances
from unmix.models.algorithms import BaseAlgorithm
from unmix.registry import HOOKS
from unmix.utils.dist import unwrap


@HOOKS.register_module()
class InstanceHook(Hook):
    """Checks ``head.num_instances`` against the data set, and tells the head of the optimiser (``head.follow``).

    When a checkpoint is saved, old tables of :class:`RowsOnDisk` are removed. Heads without all that are left alone.

    Raises:
        ValueError: If the data set has more images than the head has instances.
    """

    priority = 'BELOW_NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Check and tell, before the first iteration and after a checkpoint has been loaded."""
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
        """Remove what only older checkpoints need, once the state of this one is complete. Rank 0 only."""
        model = unwrap(runner.model)
        if isinstance(model, BaseAlgorithm):
            model.head.saved()
