"""Tells a training that learns nothing from one that does."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from unmix.registry import HOOKS


@HOOKS.register_module()
class CollapseHook(Hook):
    """Warns once when the contrastive loss stays where guessing puts it, and when the queue is too long for the data.

    A head that cannot tell the positive from its K negatives has the loss ln(K + 1); it offers that as ``chance_loss``.
    The epoch's mean of ``loss_base`` over ``model.pairs`` is compared with it. Heads without ``chance_loss`` or
    ``queue`` are left alone.

    Args:
        patience: Number of epochs in a row that must be at chance.
        tolerance: Relative distance from ``chance_loss`` that counts as at chance.
    """

    priority = 'BELOW_NORMAL'

    def __init__(self, patience: int = 5, tolerance: float = 0.01) -> None:
        self.patience = patience
        self.tolerance = tolerance
        self._epochs = 0
        self._batches = 0

    def before_train(self, runner: Runner) -> None:
        """Warn about a queue that holds keys of the batch's own images."""
        queue = getattr(getattr(_model(runner), 'head', None), 'queue', None)
        num_images = len(runner.train_dataloader.dataset)
        if queue is not None and queue.size > num_images:
            runner.logger.warning(
                f'model.head.queue_size is {queue.size}, but the training data set has only {num_images} images: the '
                'queue holds keys of the very images that it should be negatives of. Use a quarter of the data set or '
                f'less: --cfg-options model.head.queue_size={max(num_images // 4, 1)}'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Count anew the batches of the epoch, which may have been resumed in the middle."""
        self._batches = 0

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        """Count the batch."""
        self._batches += 1

    def after_train_epoch(self, runner: Runner) -> None:
        """Compare the epoch's loss with chance."""
        model = _model(runner)
        chance = getattr(getattr(model, 'head', None), 'chance_loss', None)
        losses = runner.message_hub.log_scalars.get('train/loss_base')
        if chance is None or losses is None or self._batches == 0:
            return
        pairs = max(len(getattr(model, 'pairs', ())), 1) * getattr(model, 'pair_weight', 1.0)
        loss = float(losses.mean(self._batches)) / pairs
        self._epochs = self._epochs + 1 if abs(loss - chance) <= self.tolerance * chance else 0
        if self._epochs == self.patience:
            runner.logger.warning(
                f'The contrastive loss stays at ln(K + 1): {loss:.3f} of {chance:.3f} for {self.patience} epochs. That '
                'is what an encoder gets that gives all images the same feature: a collapse, probably. What helps: '
                'BatchNorm in the projection head (model.neck), a lower optim_wrapper.optimizer.lr, shuffle-BN, and a '
                'queue (model.head.queue_size) of at most a quarter of the data set.'
            )


def _model(runner: Runner) -> object:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model
