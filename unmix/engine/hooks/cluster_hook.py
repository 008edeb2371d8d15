"""Clusters between epochs."""

from itertools import islice

from mmengine.hooks import Hook
from mmengine.runner import Runner

from unmix.engine.sizes import check_num_instances
from unmix.registry import HOOKS
from unmix.utils.dist import unwrap


@HOOKS.register_module()
class ClusterHook(Hook):
    """Clusters the bank of :class:`DeepClusterV2` before each epoch, after a pass over the data before the first.

    The pass is in training mode, without gradient, in the order of the first epoch, as released: it moves BatchNorm's
    running statistics. A run resumed in the middle of an epoch keeps that epoch's clusters.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """Fill the bank if it is empty, and cluster it.

        Raises:
            ValueError: If the data set has more images than the bank.
        """
        model = unwrap(runner.model)
        check_num_instances(model.head.bank.shape[1], len(runner.train_dataloader.dataset))
        clustered = int(model.head.clustered_epoch)
        if clustered == runner.epoch:
            return
        if clustered < 0:
            model.train()
            for batch in islice(runner.train_dataloader, len(runner.train_dataloader)):  # a stream may have more
                data = model.data_preprocessor(batch, True)
                model.remember(data['inputs'], data['index'])
        model.cluster(runner.epoch)
