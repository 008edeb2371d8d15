"""What heads that know every instance need to know of a training."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import Runner

from unmix.engine.optimizers import StreamedSGD
from unmix.engine.sizes import check_num_instances
from unmix.registry import HOOKS


@HOOKS.register_module()
class InstanceHook(Hook):
    """Checks ``head.num_instances`` against the data set, and tells the head of the optimiser (``head.follow``).

    When a checkpoint is saved, old tables of :class:`RowsOnDisk` are removed. Heads without all that are left alone.

    Raises:
        ValueError: If the data set has more images than the head has instances, or the optimiser is
            :class:`StreamedSGD` with a wrapper that scales losses, or clips or accumulates gradients.
    """

    priority = 'BELOW_NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Check and tell, before the first iteration and after a checkpoint has been loaded."""
        head = _head(runner)
        num_instances, num_images = getattr(head, 'num_instances', None), len(runner.train_dataloader.dataset)
        if num_instances is not None:
            check_num_instances(num_instances, num_images)
        if num_instances is not None and num_images < num_instances:
            runner.logger.warning(
                f'model.head.num_instances is {num_instances}, but the training data set has only {num_images} images: '
                f'the rest are never seen. --cfg-options model.head.num_instances={num_images}'
            )
        wrapper: Any = runner.optim_wrapper
        streamed = isinstance(getattr(wrapper, 'optimizer', None), StreamedSGD)
        if streamed:
            clip, counts = wrapper.clip_grad_kwargs, wrapper._accumulative_counts
            if isinstance(wrapper, AmpOptimWrapper) or clip or counts > 1:
                raise ValueError(
                    f'optim_wrapper is {type(wrapper).__name__}, clip_grad={clip}, accumulative_counts={counts}; '
                    'the optimiser StreamedSGD knows neither scaled losses nor clipping, and no checkpoint holds its '
                    "gradients. Use type='OptimWrapper' or 'AutocastOptimWrapper' without the two, or plain SGD."
                )
        follow = getattr(head, 'follow', None)
        if follow is not None:
            follow(wrapper.optimizer)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remove the tables of old checkpoints, once that of this one is written. Rank 0 only."""
        rows = getattr(_head(runner), 'rows', None)
        if rows is not None:
            rows.prune()


def _head(runner: Runner) -> Any:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return getattr(model, 'head', None)
