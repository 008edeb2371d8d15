"""Health of a training, without labels: statistics of the features, and warnings about a collapse."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.nn import functional as F

from unmix.engine.hooks.lazy_hooks import push_scalar
from unmix.models.algorithms import BaseAlgorithm
from unmix.models.algorithms.base import MIXTURE, View
from unmix.models.heads import BaseHead
from unmix.models.heads.align_uniform import align, uniform
from unmix.registry import HOOKS
from unmix.utils.dist import concat_all_gather, unwrap
from unmix.utils.feature_statistics import effective_rank, similarities, spread

ALERTS = 'alerts'  # in the message hub: [[iteration, text], ...], for the report
_KEPT = 50
ADVICE = {
    'not finite': 'the features of a batch hold NaN or infinity, so the training has diverged or an image holds NaN. '
    'Lower optim_wrapper.optimizer.lr, warm it up, or add optim_wrapper.clip_grad=dict(max_norm=1.0).',
    'constant': 'the encoder gives all images the same feature (spread {spread:.2g}; 1 fills the sphere): a collapse. '
    'What helps: BatchNorm in the projection head (model.neck.norm=True), a lower optim_wrapper.optimizer.lr, a model.'
    'momentum nearer to 1, and with a queue shuffled BatchNorm (model.backbone.num_splits on one device).',
    'rank': 'the features lie on one line (effective rank {effective_rank:.2f}, of at most {limit}): a dimensional '
    'collapse. What helps: BatchNorm in the projection head (model.neck.norm=True), a wider model.neck.hidden_dim, '
    'stronger augmentation, a lower optim_wrapper.optimizer.lr.',
    'chance': 'loss_base stays where guessing puts it: {loss:.3f} of {chance:.3f} for {patience} epochs, what an '
    'encoder gets that gives all images the same feature. What helps: BatchNorm in the projection head (model.neck.'
    'norm=True), a lower optim_wrapper.optimizer.lr, shuffled BatchNorm, and a queue (model.head.queue_size) of at '
    'most a quarter of the data set.',
}


@HOOKS.register_module()
class HealthHook(Hook):
    """Logs statistics of the features every ``interval`` iterations, and warns about a collapse; see docs/health.md.

    ``model.observer`` gets the queries and targets of a step. It is set only in iterations that are due: in the others
    nothing is computed, and the host does not wait for the device. The statistics are over the first ``samples`` images
    of the batches of all ranks, so they are equal on all ranks; those of the head's state are of after the step. Models
    that are no :class:`BaseAlgorithm` are ignored. A warning is given once, and again after a recovery.

    Args:
        interval: Iterations between two checks of the features; 0: no checks.
        samples: Number of images that are checked, over all ranks.
        min_spread: Spread of the features below which they count as constant; 1 fills the sphere.
        min_rank: Effective rank below which they count as a line.
        patience: Number of epochs in a row that the loss must be at chance, ``head.chance_loss``, for a warning.
        tolerance: Relative distance from chance that counts as at chance.
    """

    priority = 'NORMAL'  # before LoggerHook

    def __init__(
        self,
        interval: int = 50,
        samples: int = 1024,
        min_spread: float = 0.01,
        min_rank: float = 1.5,
        patience: int = 5,
        tolerance: float = 0.01,
    ) -> None:
        self.interval, self.samples = interval, samples
        self.min_spread, self.min_rank = min_spread, min_rank
        self.patience, self.tolerance = patience, tolerance
        self._seen: tuple[Tensor, Tensor | None] | None = None
        self._ill: set[str] = set()
        self._epochs = 0  # at chance, in a row

    def before_train(self, runner: Runner) -> None:
        """Restore the state of a resumed run."""
        judged = runner.message_hub.get_info('health', {})
        self._ill, self._epochs = set(judged.get('ill', ())), judged.get('epochs_at_chance', 0)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Request the features of this step, if it is due."""
        model = unwrap(runner.model)
        if self.every_n_train_iters(runner, self.interval) and isinstance(model, BaseAlgorithm):
            model.observer = lambda queries, targets: self._observe(model, queries, targets)

    def _observe(self, model: BaseAlgorithm, queries: Mapping[View, Tensor], targets: Mapping[View, Tensor]) -> None:
        pair = matching_features(model, queries, targets)
        rows = max(self.samples // get_world_size(), 2)
        self._seen = tuple(None if x is None else x.detach()[:rows] for x in pair)  # type: ignore[assignment]

    @torch.no_grad()
    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """In an iteration that is due, log the statistics and warn about a collapse."""
        model = unwrap(runner.model)
        if isinstance(model, BaseAlgorithm):
            model.observer = None
        if self._seen is None:
            return
        (own, own_partners), self._seen = self._seen, None
        features = concat_all_gather(own)
        partners = None if own_partners is None else concat_all_gather(own_partners)
        values = feature_statistics(features, partners, model.head)
        for name, value in values.items():
            push_scalar(runner, f'train/health/{name}', value)
        limit = min(features.shape)
        self._judge(runner, runner.iter + 1, 'not finite', not values)
        constant = bool(values) and values['spread'] < self.min_spread
        self._judge(runner, runner.iter + 1, 'constant', constant, **values)
        line = bool(values) and limit > 1 and not constant and values['effective_rank'] < self.min_rank
        self._judge(runner, runner.iter + 1, 'rank', line, limit=limit, **values)

    def after_train_epoch(self, runner: Runner) -> None:
        """Compare the epoch's loss with chance; iterations before an interruption count too."""
        model = unwrap(runner.model)
        chance = model.head.chance_loss if isinstance(model, BaseAlgorithm) else None
        losses = runner.message_hub.log_scalars.get('train/loss_base')
        replaced = isinstance(model, BaseAlgorithm) and model.unmix is not None and model.unmix.replace
        if chance is None or losses is None or replaced:  # it would be the loss of some pairs in some steps
            return
        loss = float(losses.mean(len(runner.train_dataloader))) / (len(model.pairs) * model.pair_weight)
        self._epochs = self._epochs + 1 if abs(loss - chance) <= self.tolerance * chance else 0
        stays = self._epochs >= self.patience
        self._judge(runner, runner.iter, 'chance', stays, loss=loss, chance=chance, patience=self.patience)

    def _judge(self, runner: Runner, iteration: int, name: str, ill: bool, **values: float) -> None:
        """Warn about a symptom that is new; store the present symptoms in the message hub, so in checkpoints."""
        if ill and name not in self._ill:
            message = ADVICE[name].format(**values)
            runner.logger.warning(f'Health, iteration {iteration}: {message}')
            alerts = [*runner.message_hub.get_info(ALERTS, []), [iteration, message]]
            runner.message_hub.update_info(ALERTS, alerts[-_KEPT:])
        (self._ill.add if ill else self._ill.discard)(name)
        runner.message_hub.update_info('health', dict(ill=sorted(self._ill), epochs_at_chance=self._epochs))


def matching_features(
    model: BaseAlgorithm, queries: Mapping[View, Tensor], targets: Mapping[View, Tensor]
) -> tuple[Tensor, Tensor | None]:
    """Return features (N, D) of the first pair's query, first crop, and what each should be near to (N, D) or None.

    That is the target if it is a feature, else another crop (or branch) of the query, else what the head has stored.
    Where the mixture has replaced the query of all pairs, it is taken, and the target of its first image.
    """
    i, j = next((pair for pair in model.pairs if pair[0] in queries), (MIXTURE, model.pairs[0][1]))
    query, target = queries[i], targets[j][: len(queries[i])]
    crops = query[:, None] if query.ndim == 2 else query
    if target.is_floating_point():
        return crops[:, 0], target if target.ndim == 2 else target[:, 0]
    if crops.shape[1] > 1:
        return crops[:, 0], crops[:, 1]
    return crops[:, 0], model.head.stored(target)


def feature_statistics(features: Tensor, partners: Tensor | None, head: BaseHead) -> dict[str, float]:
    """Return the statistics of features (N, D) and their partners, of any length, in one transfer to the host.

    Empty if a feature is not finite. Half precision is computed in single.
    """
    if not bool(features.isfinite().all()):
        return {}
    features = _unit_rows(features)
    values = dict(spread=spread(features), effective_rank=effective_rank(features))
    if len(features) > 1:
        values['uniformity'] = uniform(features)
    if partners is not None:
        partners = _unit_rows(partners)
        values['alignment'] = align(features, partners)
        values['positive_similarity'], values['negative_similarity'] = similarities(features, partners)
    values |= head.health(features)
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


def _unit_rows(features: Tensor) -> Tensor:
    return F.normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=1)
