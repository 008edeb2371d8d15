"""Linear classifier that is trained beside a pre-training and does not change it."""

from typing import Any

import torch
from mmengine.dist import all_gather, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.engine.hooks.lazy_hooks import push_scalar
from unmix.engine.loops.feature_loop import FeatureLoop
from unmix.evaluation import Features, Shard
from unmix.registry import HOOKS
from unmix.utils.dist import unwrap
from unmix.utils.labels import check_labels
from unmix.utils.rng import preserved


@HOOKS.register_module()
class OnlineProbeHook(Hook):
    """Train a linear classifier on the features that a pre-training computes anyway, behind a stop-gradient.

    In each step the backbone's output for view 0, or for the first view that the mixture has not replaced, is
    standardised (BatchNorm without affine part), and one step of Adam is taken on the cross-entropy. No forward pass is
    added, and losses, gradients, weights and random numbers of the training are the same, bit for bit, with and without
    the hook. The accuracy on the batch, augmented and before the step, is logged as ``online_linear_top1``; a
    validation by :class:`FeatureLoop` also gives ``online_linear/top1`` on its test set. The classifier is in the
    checkpoints, so a resumed run has the same one. Several processes train one classifier on all their batches. Since
    the features change during its training, its accuracy is below that of a classifier trained afterwards.

    Args:
        lr: Learning rate of Adam.
        num_classes: Number of classes; None: that of the training data set.
        name: Of the results, and of the state in checkpoints.
    """

    priority = 'NORMAL'  # before LoggerHook
    sharded = True  # as a metric of FeatureLoop

    def __init__(self, lr: float = 1e-3, num_classes: int | None = None, name: str = 'online_linear') -> None:
        self.lr, self.num_classes, self.name = lr, num_classes, name
        self.probe: Any = None
        self._state: dict[str, Any] | None = None
        self._features: Tensor | None = None
        self._handle: Any = None
        self._waiting = False

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Keep the state for a training that goes on from this checkpoint."""
        self._state = checkpoint.get(self.name)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the classifier and its optimiser."""
        if self.probe is not None:
            checkpoint[self.name] = dict(probe=self.probe.state_dict(), optimizer=self.optimizer.state_dict())

    def before_train(self, runner: Runner) -> None:
        """Record the outputs of the backbone, and add the classifier to the metrics of the validation."""
        dataset, loop = runner.train_dataloader.dataset, runner.val_loop
        classes = self.num_classes or getattr(dataset, 'num_classes', None)  # data sets of others may not say
        if classes is None:
            runner.logger.warning('OnlineProbeHook: the training data have no labels; no linear classifier is trained.')
            return
        self.num_classes = classes
        model = unwrap(runner.model)
        unmix = getattr(model, 'unmix', None)
        if unmix is not None and unmix.replace and set(model.query_views) == {0}:
            runner.logger.warning(
                'OnlineProbeHook: model.unmix.replace is True, so that the backbone sees mixtures only; no linear '
                'classifier is trained.'
            )
            return
        backbone = model.backbone
        self._handle = backbone.register_forward_hook(self._listen)
        if self._state is not None and runner.iter > 0:
            self._build(len(self._state['probe']['0.running_mean']), next(backbone.parameters()).device)
            self.probe.load_state_dict(self._state['probe'])
            self.optimizer.load_state_dict(self._state['optimizer'])
        if isinstance(loop, FeatureLoop) and loop.stage == 'backbone' and self not in loop.metrics:
            loop.metrics.append(self)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Record the first output of the step, that of a clean view."""
        self._features, self._waiting = None, self._handle is not None

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Take a step of the classifier.

        Raises:
            ValueError: If a label is none of the classes.
        """
        if self._features is None:
            return
        labels = check_labels(data_batch['label'], self.num_classes, f'OnlineProbeHook(name={self.name!r})')
        features = self._features[: len(labels)].flatten(1).float()  # crops of view 0 come first
        self._features = None
        labels = labels.to(features.device, non_blocking=True)
        if get_world_size() > 1:
            features, labels = torch.cat(all_gather(features)), torch.cat(all_gather(labels))
        if self.probe is None:
            self._build(features.shape[1], features.device)
        with torch.enable_grad():
            scores = self.probe.train()(features)
            self.optimizer.zero_grad()
            F.cross_entropy(scores, labels).backward()
            self.optimizer.step()
        top1 = 100.0 * (scores.detach().argmax(1) == labels).float().mean()
        push_scalar(runner, f'train/{self.name}_top1', top1)

    def after_train(self, runner: Runner) -> None:
        """Stop recording."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    on_abort = after_train

    @torch.no_grad()
    def __call__(self, bank: Shard, test: Features) -> dict[str, float]:
        """Return ``top1`` in percent on the test set; the bank is not read. Nothing before the first step."""
        if self.probe is None:
            return {}
        predicted = self.probe.eval()(test.features.float()).argmax(1)
        return {'top1': 100.0 * (predicted == test.labels).double().mean().item()}

    def _listen(self, module: nn.Module, args: Any, output: Tensor) -> None:
        if self._waiting:
            self._features, self._waiting = output.detach(), False

    def _build(self, dim: int, device: torch.device) -> None:
        """Build the classifier, with zero weights."""
        with preserved():  # PyTorch's initialisation draws random numbers; the zeros below replace them
            layer = nn.Linear(dim, int(self.num_classes or 0))
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        self.probe = nn.Sequential(nn.BatchNorm1d(dim, affine=False), layer).to(device)
        self.optimizer = torch.optim.Adam(self.probe.parameters(), lr=self.lr)
