"""The training step, written once for all methods. Shapes: N batch, C H W image, D feature."""

from abc import ABC
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import reduce
from itertools import chain
from operator import add
from typing import Any, NoReturn

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.model import BaseModel
from torch import Tensor
from torch.nn import functional as F

from unmix.mixing import Partners, UnMix
from unmix.models.algorithms.momentum import MomentumEncoder
from unmix.models.backbones.library import LibraryBackbone
from unmix.models.guarded import Guarded
from unmix.models.heads.base import BaseHead
from unmix.models.layers.batch_norm import BatchNormReplay
from unmix.registry import MODELS
from unmix.utils.clock import Step, read_clock
from unmix.utils.rng import generator

View = int | str  # views are counted from 0; the mixture, and what is encoded beside it, have names
Features = dict[View, Tensor]
MIXTURE: View = 'mixture'


def beside_mixture(view: int) -> View:
    """Return the name of a view that is encoded a second time, in one BatchNorm group with the mixture."""
    return f'view {view} beside the mixture'


class BaseAlgorithm(Guarded, BaseModel, ABC):
    """A self-supervised method: the queries of some views must match the targets of others.

    A method defines its views, queries and targets. The step, and Un-Mix on it, are written here. Features are
    batch-first tensors, so :class:`Partners` can put those of any method in the order of the mixtures' second targets.

    A training step in plain PyTorch::

        losses = model(views, index=index, mode='loss')    # changes nothing but BatchNorm's running statistics
        sum(losses.values()).backward()
        model.before_step()                                # no gradient where the head is frozen
        optimizer.step()
        model.after_step()                                 # queue, bank, prototypes, momentum encoder

    :class:`TrainLoop` does the same. A step whose loss or gradient is not finite is not taken: call
    :meth:`discard_step` instead of ``optimizer.step()`` and ``after_step()``.

    Args:
        backbone: Config of the network from images (N, C, H, W) to features (N, D).
        head: Config of the loss and its state.
        neck: Config of the projection into the space of the loss; None for none.
        unmix: ``dict(type='UnMix')`` adds Un-Mix to the method; None is the plain method.
        data_preprocessor: Config of device, float and normalisation; see :class:`DataPreprocessor`.

    Raises:
        ValueError: If the method has no form for what ``unmix`` asks for.

    Attributes:
        pairs: Which query view meets which target view.
        pair_weight: Factor of the sum over the pairs.
        mixture_weight: Factor of the sum over :attr:`mixture_pairs`.
        momentum_encoder: The network of the targets; None where the encoder itself makes them.
        step: What the random numbers and schedules of the present step are a function of.
        observer: Called in :meth:`after_step` with the queries and targets, by view, before state moves; or None.
    """

    data_preprocessor: Any
    pairs: tuple[tuple[int, int], ...] = ((0, 1),)
    pair_weight: float = 1.0
    mixture_weight: float = 1.0
    step: Step = Step()
    observer: Callable[[Mapping[View, Tensor], Mapping[View, Tensor]], None] | None = None
    head: BaseHead
    unmix: UnMix | None
    momentum_encoder: MomentumEncoder | None
    _features: tuple[Features, Features] | None = None  # queries and targets of a step that is not committed yet
    _steps_done: int = 0  # within one iteration of the Runner's clock; outside a Runner all steps

    def __init__(
        self,
        backbone: dict[str, Any],
        head: dict[str, Any],
        neck: dict[str, Any] | None = None,
        unmix: dict[str, Any] | None = None,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(MODELS.build(dict(type='DataPreprocessor') | (data_preprocessor or {})), init_cfg)
        self.backbone = MODELS.build(backbone)
        self.neck = torch.nn.Identity() if neck is None else MODELS.build(neck)
        self.head = MODELS.build(head)
        self.unmix = None if unmix is None else MODELS.build(unmix)
        self.momentum_encoder = None
        if self.unmix is not None:
            self.check_unmix(self.unmix)
            self.unmix.patch_size = getattr(self.backbone, 'patch_size', None) or 1

    # What a method defines: views, queries, targets.

    @property
    def query_views(self) -> list[int]:
        """Views that :meth:`encode_all` encodes. Default: those that are queries."""
        return sorted({i for i, _ in self.pairs})

    @property
    def mixture_pairs(self) -> tuple[tuple[View, View], ...]:
        """Pairs with the mixture of view 0, as query or as target. Default: it meets every target in use."""
        return tuple((MIXTURE, j) for j in self._target_order())

    def check_unmix(self, unmix: UnMix) -> None:
        """Check that the method has a form for what ``unmix`` asks for.

        Raises:
            ValueError: If it has none.
        """
        head = type(self.head).__name__
        if unmix.shares == 'sample' and type(self.head).each is BaseHead.each:
            raise ValueError(
                f"model.unmix.shares is 'sample', but {head} has no loss of a single sample, which its share would "
                "weight. Set it to 'batch'."
            )
        if unmix.patch_drop and not getattr(self.backbone, 'drops_patches', False):
            network = getattr(self.backbone, 'model_name', type(self.backbone).__name__)
            raise ValueError(
                f'model.unmix.patch_drop is {unmix.patch_drop}, but {network} encodes no image of which patches are '
                "missing: it is for ViTs. Leave it out; pairs='once' makes Un-Mix cheaper with any network."
            )
        fixed = self.backbone.image_size if isinstance(self.backbone, LibraryBackbone) else None
        if unmix.size < 1 and fixed is not None:
            resizes = self.backbone.positions() is not None
            raise ValueError(
                f'model.unmix.size is {unmix.size}, but {self.backbone.model_name} takes images of {fixed}x{fixed} px '
                f'only. Leave it out{", or set model.backbone.dynamic_img_size=True" if resizes else ""}; '
                "pairs='once' makes Un-Mix cheaper with any network."
            )
        if unmix.replace and self.head.remembers_queries:
            self.refuse_replacement(f'{head} remembers the features of view 0')

    def refuse_replacement(self, reason: str) -> NoReturn:
        """Raise ValueError: the mixture cannot take the place of view 0."""
        raise ValueError(
            f'model.unmix.replace is True, so that view 0 is not encoded, but {reason}. Set it to False; '
            "pairs='once' and every=2 make Un-Mix cheaper, too."
        )

    def start_step(self) -> None:
        """Prepare the draws of a step, or check that it can be taken; changes no state. Default: nothing."""

    def views(self, inputs: Sequence[Tensor]) -> Sequence[Any]:
        """Return the views of what the data set delivers: each (N, C, H, W), or a list of such crops (multi-crop)."""
        return inputs

    def mix(self, views: Sequence[Any]) -> tuple[Any, float | Tensor]:
        """Return the mixture and its share ``lam``. Default: of view 0."""
        assert self.unmix is not None
        return self.unmix.mix(views[0], self.mixing_rng())

    def mixing_rng(self) -> np.random.Generator:
        """Return the random numbers of this step's mixture, from their beginning.

        Default: of each rank's own, or those of rank 0 if the head :attr:`~BaseHead.pools_ranks`.
        """
        return self.generator('mixing', 0 if self.head.pools_ranks else get_rank())

    @property
    def partners(self) -> Partners:
        """Who is mixed with whom in this step."""
        assert self.unmix is not None
        return self.unmix.partners(self.mixing_rng)

    def encode(self, view: Tensor) -> Tensor:
        """Return the queries (N, D) of one view: backbone and projection."""
        return self.project(self.backbone(view))

    def project(self, features: Tensor) -> Tensor:
        """Return the queries (N, D) of backbone features: neck, and unit length unless the head needs the length."""
        queries = self.neck(features)
        return F.normalize(queries, dim=1) if self.head.unit_length else queries

    def encode_target(self, view: Any, query: Tensor | None, index: Tensor | None) -> Tensor:
        """Return the target (N, ...) of one view.

        Args:
            view: Images (N, C, H, W).
            query: Its encoding, if the view is a query too, else None.
            index: Instance ids (N,), the target of methods that tell instances apart.
        """
        return self.encode(view) if query is None else query

    def encode_targets(self, views: Sequence[Any], queries: Mapping[View, Tensor], index: Tensor | None) -> Features:
        """Return the targets by view, in the order in which the pairs ask for them: :meth:`encode_target` of each."""
        return {j: self.encode_target(views[j], queries.get(j), index) for j in self._target_order()}

    def encode_all(self, views: Mapping[View, Any]) -> Features:
        """Encode the query views and the mixture, in order; BatchNorm sees each view on its own."""
        queries: Features = {}
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

    def match_mixture(
        self, queries: Mapping[View, Tensor], targets: Sequence[tuple[Any, Any]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return for each target the terms of the mixture against it, and those against the partners' targets.

        Args:
            queries: All encodings by view; the mixture's is ``queries[MIXTURE]`` (M, ...).
            targets: What the head has prepared of each target: what the mixtures meet, and what they meet after
                ``self.partners.turn``.
        """
        query, partners = queries[MIXTURE], self.partners
        shared = self.head.shared(query)
        turned = partners.turn(query)
        return [self.both_terms(partners, (query, own), (turned, others), shared) for own, others in targets]

    def both_terms(
        self,
        partners: Partners,
        straight: tuple[Tensor, Any],
        turned: tuple[Tensor, Any],
        shared: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the terms of mixtures against their own targets and their partners', as :class:`UnMix` weights them.

        Args:
            partners: Who is mixed with whom.
            straight: Query and target, with the mixtures in their order.
            turned: Query and target, with the mixtures in the order of ``partners.turn``.
            shared: Of the first query, if that is of the mixtures; None: not computed.
        """
        assert self.unmix is not None
        each = self.unmix.shares == 'sample'
        loss = self.head.each if each else self.head.terms
        first = loss(*straight, shared)
        second = loss(*turned, None if shared is None else partners.turn(shared))
        return first, partners.back(second) if each else second

    # The step.

    @torch.compiler.disable  # counters and draws are Python numbers: a compiled form would fit one step only
    def loss(self, inputs: Sequence[Tensor], index: Tensor | None = None) -> dict[str, Tensor]:
        """Return the terms of one training step; nothing changes but BatchNorm's running statistics.

        In training mode with gradients enabled, :meth:`after_step` or :meth:`discard_step` must follow.

        Args:
            inputs: Views of one batch, each (N, C, H, W), normalised.
            index: Instance ids (N,).

        Returns:
            ``loss_base``, over the pairs; ``loss_regulariser``, if the head has one, with the weight of all pairs,
            those with a mixture too; and with Un-Mix ``loss_unmix``, in the steps that have a mixture. MMEngine adds
            them up. Where the mixture has replaced the query of all pairs there is no ``loss_base``.

        Raises:
            RuntimeError: If the step before was neither committed nor discarded.
            ValueError: If there are fewer views than the pairs name.
        """
        if self._features is not None:
            raise RuntimeError(
                f'{type(self).__name__}.loss() was called again, but the state has not moved since the last call. Call '
                'model.after_step() after optimizer.step(), model.after_step(stepped=False) while gradients '
                'accumulate, or model.discard_step() if the optimiser step is left out. '
                "unmix's TrainLoop does this; for a loss without training use torch.no_grad()."
            )
        clock = read_clock()
        done = self._steps_done if clock.iteration == self.step.iteration else 0
        self.step = self.head.step = Step(clock.seed, clock.iteration, done, clock.epoch)
        self.head.enter(index)
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
        query_views: dict[View, Any] = {i: views[i] for i in self.query_views}
        if self.unmix is not None and self.unmix.due(self.step.count):
            mixture, lam = self.mix(views)
            if self.unmix.replace:
                query_views = {i: view for i, view in query_views.items() if i != 0} | {MIXTURE: mixture}
            else:
                query_views = {0: views[0], MIXTURE: mixture} | query_views
        queries = self.encode_all(query_views)
        targets = self.encode_targets(views, queries, index)
        losses = self._losses(mixture, lam, queries, targets)
        if self.training and torch.is_grad_enabled():
            self._features = _detached(queries), _detached(targets)
        return losses

    def _losses(
        self, mixture: Any, lam: float | Tensor, queries: Mapping[View, Tensor], targets: Mapping[View, Tensor]
    ) -> dict[str, Tensor]:
        head = self.head
        pairs = [(i, j) for i, j in self.pairs if i in queries]
        shared = {i: head.shared(queries[i]) for i in dict.fromkeys(i for i, _ in pairs)}
        prepared = {j: head.prepare(target) for j, target in targets.items()}
        losses = {}
        if pairs:
            terms = [head.terms(queries[i], prepared[j], shared[i]) for i, j in pairs]
            losses['loss_base'] = self.pair_weight * torch.stack(terms).sum()
        penalty = head.regulariser({i: queries[i] for i in self.query_views if i in queries})
        if penalty is not None:
            added = self.unmix.added_weight if self.unmix is not None and mixture is not None else 0.0
            losses['loss_regulariser'] = penalty * (1 + added)
        if mixture is not None:
            losses['loss_unmix'] = self.mixture_loss(mixture, lam, queries, prepared, targets)
        return losses

    def mixture_loss(
        self,
        mixture: Any,
        lam: float | Tensor,
        queries: Mapping[View, Tensor],
        prepared: Mapping[View, Any],
        targets: Mapping[View, Tensor],
    ) -> Tensor:
        """Return ``loss_unmix``: the mixture as query of targets, in some methods also as target.

        Default: the sum of :class:`UnMix` over :attr:`mixture_pairs`.

        Args:
            mixture: From :meth:`mix`.
            lam: Its share, likewise.
            queries: All encodings by view; the mixture's is ``queries[MIXTURE]``.
            prepared: By view, what the head has prepared of the targets; serves where each target meets a mixture.
            targets: By view, the targets.
        """
        assert self.unmix is not None
        head, partners = self.head, self.partners
        pairs, weight = self.mixture_pairs, self.mixture_weight
        if self.unmix.replace:
            pairs, weight = tuple((MIXTURE, j) for i, j in self.pairs if i == 0), self.pair_weight
        met = []
        for i, j in pairs:
            if i == MIXTURE and isinstance(j, int):
                beside = queries.get(beside_mixture(j))
                if beside is None and partners.whole:
                    met.append((prepared[j], prepared[j]))
                else:
                    own, others = partners.met(targets[j] if beside is None else beside)
                    ready = head.prepare(own)
                    met.append((ready, ready if others is own else head.prepare(others)))
        loss = self.unmix(lam, self.match_mixture(queries, met))
        learners = [queries[i] for i, j in pairs if j == MIXTURE]
        if learners:
            target = self.encode_target(mixture, queries[MIXTURE], None)
            straight, turned = head.prepare(target), head.prepare(partners.turn(target))
            met_twice = map(partners.met, learners)
            both = [self.both_terms(partners, (own, straight), (others, turned)) for own, others in met_twice]
            loss = loss + self.unmix(lam, both)
        return weight * loss

    @torch.compiler.disable  # as the loss
    def before_step(self) -> None:
        """Drop the gradients of parameters that do not learn in this step; called before each optimiser step."""
        for parameter in self.frozen_parameters():
            parameter.grad = None

    def frozen_parameters(self) -> Iterable[torch.nn.Parameter]:
        """Return the parameters that do not learn in the present step. Default: those of the head."""
        return self.head.frozen_parameters()

    def after_step(self, stepped: bool = True) -> None:
        """Move all state: the one place where it moves.

        The head's queue, bank and counters move with every micro-batch. The head's parameters are brought into form,
        and the momentum encoder moves, only after an optimiser step.

        Args:
            stepped: Whether the optimiser has stepped: False while gradients accumulate, and where a gradient scaler
                has left the step out.

        Raises:
            RuntimeError: If there was no :meth:`loss` in training mode before, or the optimiser has moved parameters
                that are frozen.
        """
        if self._features is None:
            raise RuntimeError(
                f'{type(self).__name__}.after_step() was called without a loss: call it once after each loss in '
                'training mode, model.train().'
            )
        if stepped and any(parameter.grad is not None for parameter in self.frozen_parameters()):
            raise RuntimeError(
                f'The optimiser has stepped with a gradient of parameters of {type(self).__name__} that are frozen in '
                'this step. Call model.before_step() before optimizer.step().'
            )
        queries, targets = self._features
        self.discard_step()
        self._steps_done = self.step.number + 1
        if self.observer is not None:
            self.observer(queries, targets)
        self.update_head(queries, targets)
        if stepped:
            self.head.after_step()
            self.move_momentum_encoder()

    def move_momentum_encoder(self) -> None:
        """Move the momentum encoder, if there is one, by one optimiser step."""
        if self.momentum_encoder is not None:
            self.momentum_encoder.momentum = self.current_momentum()
            self.momentum_encoder.update(self.backbone, self.neck)

    def discard_step(self) -> None:
        """Leave the last step out: nothing of it enters the state. BatchNorm's running statistics have seen it."""
        self._features = None

    def update_head(self, queries: Mapping[View, Tensor], targets: Mapping[View, Tensor]) -> None:
        """Move the head's state by one micro-batch, with the clean features."""
        self.head.update({i: queries[i] for i, _ in self.pairs if i in queries}, targets)

    def current_momentum(self) -> float:
        """Return the share of the momentum encoder's weights that stays in this step. Default: it is constant."""
        assert self.momentum_encoder is not None
        return self.momentum_encoder.momentum

    def generator(self, purpose: str, *key: int) -> np.random.Generator:
        """Return random numbers for ``purpose`` in this step: a function of (seed, iteration, key), nothing else."""
        return generator(purpose, *self.step.key, *key)

    def _target_order(self) -> list[int]:
        """Target views in the order in which the pairs ask for them."""
        return list(dict.fromkeys(j for _, j in self.pairs))

    # What the Runner, the evaluation and the tools call.

    def init_weights(self) -> None:
        """Initialise the weights; the momentum encoder starts from the online weights."""
        super().init_weights()
        if self.momentum_encoder is not None:
            self.momentum_encoder.copy_from(self.backbone, self.neck)

    def parse_losses(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the terms called loss, and all terms for the log.

        MMEngine's form first takes the mean of each term, which adds a node to the graph for each; terms here are
        scalars.
        """
        total = reduce(add, [term for name, term in losses.items() if 'loss' in name])
        return total, {'loss': total, **losses}

    def extract_feat(self, x: Tensor, stage: str = 'backbone') -> Tensor:
        """Return features (N, D) of images (N, C, H, W): the backbone's, or the neck's at unit length.

        Raises:
            ValueError: If ``stage`` is neither ``'backbone'`` nor ``'neck'``.
        """
        if stage not in ('backbone', 'neck'):
            raise ValueError(f"stage is {stage!r}; features are taken after 'backbone' or 'neck'.")
        features: Tensor = self.backbone(x)
        return features if stage == 'backbone' else F.normalize(self.neck(features), dim=1)

    def forward(
        self,
        inputs: Tensor | Sequence[Tensor],
        index: Tensor | None = None,
        label: Tensor | None = None,
        mode: str = 'tensor',
    ) -> Tensor | dict[str, Tensor]:
        """Run a training step (``'loss'``) or extract backbone features (``'tensor'``, ``'predict'``).

        ``label`` is accepted because batches carry it, and never read: pre-training knows no labels.

        Raises:
            ValueError: If ``mode`` is another one.
        """
        if mode == 'loss':
            return self.loss([inputs] if isinstance(inputs, Tensor) else inputs, index)
        if mode in ('tensor', 'predict'):
            return self.extract_feat(inputs if isinstance(inputs, Tensor) else inputs[0])
        raise ValueError(f"mode is {mode!r}; it is 'loss', 'tensor' or 'predict'.")


def _detached(features: Mapping[View, Tensor]) -> Features:
    return {view: feature.detach() for view, feature in features.items()}
