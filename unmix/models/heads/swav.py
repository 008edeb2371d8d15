"""Swapped prediction of cluster assignments. Shapes: N samples, V crops, D features, K prototypes, Q queue."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.dist import get_rank, get_world_size, is_distributed
from torch import Tensor, nn
from torch.nn import functional as F

from unmix.models.functional.precision import full_precision
from unmix.models.functional.sinkhorn import sinkhorn
from unmix.models.heads.base import BaseHead
from unmix.models.heads.info_nce import queue_for
from unmix.models.layers import Temperature, build_temperature, read_temperature
from unmix.models.memory.queue import FeatureQueue
from unmix.registry import MODELS
from unmix.utils.feature_statistics import memory_statistics, usage_entropy
from unmix.utils.numbers import check_number, check_sizes
from unmix.utils.sizes import Misfit, Sizes

QUEUE_PUSHES = ('once_clean', 'every_call')


class Look(NamedTuple):
    """Scores, predictions and code of some crops.

    Attributes:
        scores: Similarity to the prototypes (N, V, K).
        predictions: Their log-softmax (N, V, K).
        code: Of the first crop (N, K).
    """

    scores: Tensor
    predictions: Tensor
    code: Tensor

    def flip(self, dim: int) -> 'Look':
        """Return the same of the batch in reverse order (``dim`` is 0)."""
        return Look(*(x.flip(dim) for x in self))


@MODELS.register_module()
class SwAVHead(BaseHead):
    """Predict the code of one crop from every other one (`SwAV <https://arxiv.org/abs/2006.09882>`_, Eq. 1 and 2).

    With crops ``z_0 ... z_(V-1)``, prototypes ``C`` and ``p_v = softmax(z_v C / temperature)``,

    ``loss = 1/2 sum_(i = 0, 1) 1/(V - 1) sum_(v != i) mean_n -sum_k q_i log p_v``, ``q_i = sinkhorn(z_i C)``

    Queries are the crops 0, 2, 4, ..., targets the crops 1, 3, ...: the loss is symmetric in them, and in Un-Mix the
    mixtures of the even crops take their place. The codes have no gradient. The queues, one for each of the crops 0 and
    1, enlarge the batch that the codes are balanced over; they are used once they are full.

    The queues hold the features of all ranks, and each rank balances its share: the same codes as with the released
    queues, one for each rank, but saved in every checkpoint.

    Args:
        dim: Feature dimension D.
        num_prototypes: Number of prototypes K.
        temperature: Softmax temperature; a number or a config, as in :class:`InfoNCEHead`.
        epsilon: Smoothness of the codes.
        sinkhorn_iterations: Iterations of :func:`sinkhorn`.
        queue_size: Rows Q of each queue, over all ranks; a multiple of the batch of all ranks. 0: no queue.
        queue_start: Epoch, from 0, in which the queues begin to fill.
        queue_push: ``'once_clean'``: a step pushes its clean crops; ``'every_call'``: as in the released Un-Mix, whose
            three losses each push, the crops, the mixture and its reverse. The same without Un-Mix.
        freeze_steps: Steps at the start in which the optimiser leaves the prototypes, and its state of them, alone:
            they have no gradient, as in the released code. While gradients accumulate, each micro-batch is a step.

    Raises:
        ValueError: If an argument is out of range; in training, if the batch of all ranks does not divide the queue.
    """

    remembers_queries = True
    queued: Tensor

    def __init__(
        self,
        dim: int = 128,
        num_prototypes: int = 3000,
        temperature: Temperature | dict[str, Any] = 0.1,
        epsilon: float = 0.05,
        sinkhorn_iterations: int = 3,
        queue_size: int = 0,
        queue_start: int = 0,
        queue_push: str = 'once_clean',
        freeze_steps: int = 0,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if queue_push not in QUEUE_PUSHES:
            raise ValueError(f'head.queue_push is {queue_push!r}; it is one of {", ".join(map(repr, QUEUE_PUSHES))}.')
        check_number('head.epsilon', epsilon, above=0)
        check_sizes('head', dim=dim, num_prototypes=num_prototypes, sinkhorn_iterations=sinkhorn_iterations)
        for name, value in dict(queue_size=queue_size, queue_start=queue_start, freeze_steps=freeze_steps).items():
            check_number(f'head.{name}', value, least=0, whole=True)
        self.temperature = build_temperature(temperature)
        self.epsilon = epsilon
        self.sinkhorn_iterations = sinkhorn_iterations
        self.queue_size = queue_size
        self.queue_start = queue_start
        self.queue_push = queue_push
        self.freeze_steps = freeze_steps
        self.prototypes = nn.Linear(dim, num_prototypes, bias=False)
        self.queues = nn.ModuleList(FeatureQueue(queue_size, dim) for _ in range(2 if queue_size else 0))
        if queue_size:
            self.register_buffer('queued', torch.zeros((), dtype=torch.long))
        self.after_step()

    @property
    def chance_loss(self) -> float:
        """Loss of features that are the same for all images, ln(K)."""
        return math.log(self.prototypes.out_features)

    def misfits(self, sizes: Sizes) -> list[Misfit]:
        """Return a queue that batches do not divide or that is longer than the data set, and idle prototypes."""
        found, prototypes = super().misfits(sizes), self.prototypes.out_features
        if self.queue_size % sizes.batch:
            found.append(
                Misfit(
                    f'model.head.queue_size is {self.queue_size}, which is not a multiple of the batch of all '
                    f'processes, {sizes.batch}',
                    fatal=True,
                )
            )
        if self.queue_size > sizes.most:
            reason = f'model.head.queue_size is {self.queue_size}, but the training data set has only'
            found.append(Misfit(f'{reason} {sizes.images} images'))
        if prototypes > most_prototypes(sizes.images):
            found.append(Misfit(too_many(prototypes, sizes.images)))
        elif prototypes > sizes.batch + self.queue_size:
            found.append(
                Misfit(
                    f'model.head.num_prototypes is {prototypes}, but codes are balanced over {sizes.batch} images of '
                    f'a batch and {self.queue_size} of the queue only, so each prototype gets a part of an image'
                )
            )
        if self.freeze_steps >= sizes.iterations:
            reason = f'model.head.freeze_steps is {self.freeze_steps}, but the training has only {sizes.iterations}'
            found.append(Misfit(f'{reason} iterations: the prototypes never learn'))
        return found

    def suitable(self, sizes: Sizes) -> dict[str, int] | None:
        """Return a queue of whole batches, or none, and prototypes of ten images each."""
        options, queue, prototypes = dict(super().suitable(sizes) or {}), self.queue_size, self.prototypes.out_features
        if queue % sizes.batch or queue > sizes.most:
            queue = min(queue // sizes.batch * sizes.batch, queue_for(sizes))
            options['model.head.queue_size'] = queue
        if prototypes > min(most_prototypes(sizes.images), sizes.batch + queue):
            options['model.head.num_prototypes'] = max(min(sizes.images // 10, sizes.batch + queue), 1)
        if self.freeze_steps >= sizes.iterations:
            options['model.head.freeze_steps'] = sizes.iterations // 10
        return options

    def enter(self, index: Tensor | None) -> None:
        """Scale prototypes that were loaded or cast to unit length, in place."""
        self.after_step()

    @torch.no_grad()
    def after_step(self) -> None:
        """Scale the prototypes to unit length, in place."""
        self.prototypes.weight.copy_(unit_rows(self.prototypes.weight))

    @property
    def frozen(self) -> bool:
        """Whether the prototypes stay as they are in this step."""
        return self.step.count < self.freeze_steps

    def frozen_parameters(self) -> Iterable[nn.Parameter]:
        """Return the prototypes in the first ``freeze_steps`` steps."""
        return self.prototypes.parameters() if self.frozen else ()

    def scores(self, features: Tensor) -> Tensor:
        """Return the similarity (..., K) of features (..., D) to the prototypes."""
        weight = self.prototypes.weight
        if self.frozen:
            # DistributedDataParallel waits for a gradient. It is zero, and dropped before the optimiser's step.
            weight = weight.detach() + 0.0 * weight if is_distributed() else weight.detach()
        return F.linear(features, weight)

    @property
    def queue_in_use(self) -> bool:
        """Whether the queues are filled in this step; they may not be full yet."""
        return self.queue_size > 0 and self.step.epoch >= self.queue_start

    @property
    def pushes_every_call(self) -> bool:
        """Whether each of Un-Mix's three losses pushes to the queues in this step."""
        return self.queue_in_use and self.queue_push == 'every_call'

    @torch.no_grad()
    def assign(self, scores: Tensor, crop: int, pushed: Sequence[Tensor] = ()) -> Tensor:
        """Return the codes (N, K) of the scores (N, K) of crop 0 or 1, balanced with its queue if that is full.

        Args:
            scores: Similarity of a crop to the prototypes.
            crop: 0 or 1.
            pushed: Features (N, V, D) or (N, D) that the queue is seen with, as if they had been pushed before.
        """
        if not self.queue_in_use:
            return sinkhorn(scores, self.epsilon, self.sinkhorn_iterations)
        share = len(scores) * self._check_batch(len(scores))
        queue: FeatureQueue = self.queues[crop]  # type: ignore[assignment]
        features = queue.after([_crops(feature)[:, 0] for feature in pushed])
        queued = self._full_scores(features[get_rank() * share : (get_rank() + 1) * share])
        count = self.queued + len(pushed) * len(scores) * get_world_size()
        missing = torch.where(count >= self.queue_size, 0.0, -torch.inf).to(scores.dtype)
        mask = torch.cat([missing.expand(share), torch.zeros_like(scores[:, 0])])
        codes = sinkhorn(torch.cat([queued.to(scores.dtype), scores]), self.epsilon, self.sinkhorn_iterations, mask)
        return codes[share:]

    def _check_batch(self, batch_size: int) -> int:
        """Return how many batches of all ranks a queue holds."""
        total = batch_size * get_world_size()
        if self.queue_size % total:
            raise ValueError(
                f'model.head.queue_size is {self.queue_size}, which is not a multiple of the batch of all processes, '
                f'{get_world_size()} x {batch_size} = {total}. Use {max(self.queue_size // total, 1) * total} or 0, no '
                'queue (the released code rounds down, 120 at a batch of 128 to 0).'
            )
        return self.queue_size // total

    @full_precision
    def _full_scores(self, features: Tensor) -> Tensor:
        return self.scores(features)

    def look(self, features: Tensor, crop: int, pushed: Sequence[Tensor] = ()) -> Look:
        """Return scores, predictions and code of crops (N, V, D) or (N, D), unit rows; the first is crop 0 or 1.

        ``pushed`` is that of :meth:`assign`.
        """
        scores = self._full_scores(_crops(features))
        code = self.assign(scores[:, 0], crop, pushed)
        return Look(scores, (scores / read_temperature(self.temperature)).log_softmax(2), code)

    def shared(self, query: Tensor) -> Look:
        """Return scores, predictions and code of the even crops (N, V, D)."""
        return self.look(query, 0)

    def prepare(self, target: Tensor) -> Look:
        """Return scores, predictions and code of the odd crops (N, V, D)."""
        return self.look(target, 1)

    def terms(self, query: Tensor, target: Look, shared: Look | None = None) -> Tensor:
        """Return the loss split over the V crops of the query, (V,): their codes and predictions."""
        look = self.shared(query) if shared is None else shared
        both = (look.code + target.code)[:, None]  # the others predict both codes; cross-entropy is linear in them
        p, t = look.predictions, target.predictions
        on_query = [(target.code[:, None] * p[:, :1]).sum(2), (both * p[:, 1:]).sum(2)]
        on_target = (look.code * t[:, 0]).sum(1) + (both * t[:, 1:]).sum((1, 2))
        loss = torch.cat(on_query, 1).mean(0)
        loss = torch.cat([loss[:1] + on_target.mean(), loss[1:]])
        return -loss / (2 * (p.shape[1] + t.shape[1] - 1))

    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the loss of the even crops ``query`` and the odd crops ``target``, (N, V, D) or (N, D), unit rows."""
        return self.terms(query, self.prepare(target)).sum()

    def update(self, queries: Mapping[Any, Tensor], targets: Mapping[Any, Tensor]) -> None:
        """Push the first crop of the queries and that of the targets."""
        if not self.queue_in_use:
            return
        (query,), (target,) = queries.values(), targets.values()
        self._check_batch(len(query))
        for queue, features in zip(self.queues, (query, target), strict=True):
            queue.enqueue(_crops(features)[:, 0])  # type: ignore[operator]
        self.queued = (self.queued + len(query) * get_world_size()).clamp(max=self.queue_size)

    @torch.no_grad()
    def health(self, features: Tensor) -> dict[str, Tensor]:
        """Return how evenly unit ``features`` (N, D) use the prototypes, and the first queue's statistics."""
        usage = dict(prototype_entropy=usage_entropy(F.linear(features, self.prototypes.weight)))
        queues = [memory_statistics(features, queue.features, 'queue') for queue in self.queues[:1]]  # type: ignore[arg-type]
        return {name: value for part in [usage, *queues] for name, value in part.items()}


def most_prototypes(images: int) -> int:
    """Return the number of prototypes above which there is a warning: a quarter of the data set."""
    return max(images // 4, 1)


def too_many(prototypes: int, images: int) -> str:
    """Return the warning."""
    return (
        f'model.head.num_prototypes is {prototypes}, but the training data set has only {images} images: a cluster '
        'should hold many of them'
    )


@torch.no_grad()
def unit_rows(weight: Tensor) -> Tensor:
    """Return rows (K, D) scaled to unit length. Rows that have it within rounding are returned bit for bit."""
    length = weight.norm(dim=1, keepdim=True)
    return torch.where((length - 1).abs() <= 16 * torch.finfo(weight.dtype).eps, weight, F.normalize(weight, dim=1))


def _crops(features: Tensor) -> Tensor:
    """Return features as (N, V, D); (N, D) is one crop."""
    return features[:, None] if features.ndim == 2 else features
