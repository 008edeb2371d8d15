"""The only training step."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any

import torch
from mmengine.dist import get_rank
from torch import Tensor

from unmix.models.algorithms.draws import StepDraws
from unmix.models.algorithms.pretraining_model import PretrainingModel
from unmix.models.layers.batch_norm import BatchNormReplay

MIXTURE = -1  # the mixture's place among the views, which are counted from 0


def beside_mixture(view: int) -> int:
    """The place of a view that is encoded once more together with the mixture, by BatchNorm over both."""
    return MIXTURE - 1 - view


class BaseAlgorithm(StepDraws, PretrainingModel):
    """A self-supervised method: queries of some views must match targets of others.

    A method says what its views, queries and targets are; the step, and Un-Mix on it, are written here once. Features
    are batch-first tensors of unit rows, so "in reverse order" is ``flip(0)`` for every method. Arguments are those of
    :class:`PretrainingModel`.

    Attributes:
        pairs: Which query view meets which target view.
        pair_weight: Factor of the sum over them.
        mixture_weight: Factor of the sum over :attr:`mixture_pairs`.
        observer: Called once a step with the queries and targets, by view, before the head's state moves; or None.
    """

    pairs: tuple[tuple[int, int], ...] = ((0, 1),)
    pair_weight: float = 1.0
    mixture_weight: float = 1.0
    observer: Callable[[Mapping[int, Tensor], Mapping[int, Tensor]], None] | None = None

    @property
    def query_views(self) -> list[int]:
        """Views that :meth:`encode_all` encodes. Default: those that are queries."""
        return sorted({i for i, _ in self.pairs})

    @property
    def mixture_pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs with the mixture of view 0, as query or as target. Default: it meets every target in use."""
        return tuple((MIXTURE, j) for j in self._target_order())

    def start_step(self) -> None:
        """Do what a method does at the start of each training step. Default: nothing."""

    def views(self, inputs: Sequence[Tensor]) -> Sequence[Any]:
        """Return the views of what the data set delivers: each (N, C, H, W), or a list of such crops (multi-crop)."""
        return inputs

    def mix(self, views: Sequence[Any]) -> tuple[Any, float | Tensor]:
        """Return the mixture and its share ``lam``. Default: of view 0, with a draw of each rank's own."""
        assert self.unmix is not None
        return self.unmix.mix(views[0], self.generator('mixing', get_rank()))

    def encode_target(self, view: Tensor, query: Tensor | None, index: Tensor | None) -> Tensor:
        """Return the target (N, ...) of one view.

        Args:
            view: Images (N, C, H, W).
            query: Its encoding, if the view is a query too, else None.
            index: Instance ids (N,), the target of methods that tell instances apart.
        """
        return self.encode(view) if query is None else query

    def encode_all(self, views: Mapping[int, Any]) -> dict[int, Tensor]:
        """Encode the query views and the mixture, in order; BatchNorm sees each view on its own."""
        queries: dict[int, Tensor] = {}
        replay = None
        for name, view in views.items():
            watched = name == MIXTURE and self.unmix is not None and self.unmix.replay_bn_stats
            if watched:
                replay = BatchNormReplay([self.backbone, self.neck])
            with replay if watched and replay is not None else nullcontext():
                queries[name] = self.encode(view)
            if replay is not None and not watched:
                replay.replay()
        return queries

    def loss(self, inputs: Sequence[Tensor], index: Tensor | None = None) -> dict[str, Tensor]:
        """Return the terms of one training step, and move the head's state.

        Args:
            inputs: Views of one batch, each (N, C, H, W), normalised.
            index: Instance ids (N,).

        Returns:
            ``loss_base``, over the pairs, and with Un-Mix ``loss_unmix``; MMEngine adds them up.

        Raises:
            ValueError: If there are fewer views than the pairs name.
        """
        self._tick()
        self.start_step()
        views = self.views(inputs)
        needed = 1 + max(chain(self.query_views, *self.pairs))
        if len(views) < needed:
            raise ValueError(
                f'A batch has {len(views)} view(s) of each image, and {type(self).__name__} compares {needed}. In '
                f"train_dataloader.dataset.pipeline set type='MultiView', num_views={needed}, or another of so many."
            )
        mixture: Any = None
        lam: float | Tensor = 1.0
        query_views: dict[int, Any] = {i: views[i] for i in self.query_views}
        if self.unmix is not None:
            mixture, lam = self.mix(views)
            rest = {i: view for i, view in query_views.items() if i != 0}
            query_views = {0: views[0], MIXTURE: mixture, **rest}
        queries = self.encode_all(query_views)
        targets = {j: self.encode_target(views[j], queries.get(j), index) for j in self._target_order()}
        losses = self._losses(mixture, lam, queries, targets)
        if self.observer is not None:
            self.observer(queries, targets)
        self.update_head(queries, targets)
        return losses

    def _losses(
        self, mixture: Any, lam: float | Tensor, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]
    ) -> dict[str, Tensor]:
        shared = {i: self.head.shared(queries[i]) for i in dict.fromkeys(i for i, _ in self.pairs)}
        terms = [self._match(queries[i], targets[j], shared[i]) for i, j in self.pairs]
        losses = dict(loss_base=self.pair_weight * torch.stack(terms).sum())
        if self.unmix is not None:
            losses['loss_unmix'] = self._loss_unmix(mixture, lam, queries, targets)
        return losses

    def _match(self, query: Tensor, target: Tensor, shared: Tensor | None) -> Tensor:
        return self.head(query, target) if shared is None else self.head(query, target, shared)

    def update_head(self, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        """Move the head's state by one step, with the clean features."""
        self.head.update({i: queries[i] for i, _ in self.pairs}, targets)

    def _loss_unmix(
        self, mixture: Any, lam: float | Tensor, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]
    ) -> Tensor:
        """Un-Mix over the mixture's pairs: the mixture as query of targets, in some methods also as target."""
        assert self.unmix is not None
        met = [queries.get(beside_mixture(j), targets[j]) for i, j in self.mixture_pairs if i == MIXTURE]
        query = queries[MIXTURE]
        loss = self.unmix(query, lam, met, self.head, shared=self.head.shared(query) if met else None)
        learners = [queries[i] for i, j in self.mixture_pairs if j == MIXTURE]
        if learners:
            target = self.encode_target(mixture, query, None)
            loss = loss + self.unmix(target, lam, learners, lambda target, query: self.head(query, target))
        return self.mixture_weight * loss

    def _target_order(self) -> list[int]:
        """Target views in the order in which the pairs ask for them."""
        return list(dict.fromkeys(j for _, j in self.pairs))
