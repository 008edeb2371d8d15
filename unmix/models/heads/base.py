"""What every head is: a loss and its state."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.optim import Optimizer

from unmix.utils.clock import Step
from unmix.utils.sizes import Misfit, Sizes


class BaseHead(BaseModule, ABC):
    """A loss between queries and targets, with the state (queue, bank, prototypes) that it needs.

    ``forward`` is pure: it may be called any number of times a step and changes nothing. State moves after the step:
    ``update`` with each micro-batch, ``after_step`` with each optimiser step. All that the rest of the toolbox asks of
    a head is declared here with a default, so a new head overrides what it needs and nothing else.

    A query may meet several targets, in Un-Mix also in reverse order, and a target several queries. What the losses of
    a query have in common, such as the log-sum-exp over a queue, is computed once in ``shared``; what those of a
    target have in common in ``prepare``. ``terms`` gets both back.

    What keeps the features apart without a pair, such as a demand on their variance, is no part of ``forward``:
    ``regulariser`` returns it, once a step and of the clean views only. So Un-Mix mixes the pair term and nothing else;
    the regulariser gets the weight of the pairs that it adds, so that the balance of the two stays that of the method.

    Attributes:
        unit_length: Whether queries and targets are scaled to unit length before they come here; False leaves them as
            the neck gives them.
        num_instances: Number of instances that the head has room for; None for heads that do not tell them apart.
        pools_ranks: Whether the loss is of the samples of all ranks as one batch, not a mean over a rank's own. Then
            one share weights it, so all ranks draw the same mixture.
        method: Name of the method in reports, if this head makes another one of the algorithm that it is in; None: the
            algorithm's.
        remembers_queries: Whether ``update`` stores or evaluates queries. Then view 0 must be encoded in every step.
        step: What random numbers and schedules of the present step are a function of; set before each loss.
    """

    unit_length: bool = True
    num_instances: int | None = None
    pools_ranks: bool = False
    remembers_queries: bool = False
    method: str | None = None
    step: Step = Step()

    @abstractmethod
    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss, a mean over samples, of ``query`` (N, ...) against ``target`` (N, ...)."""

    def shared(self, query: Tensor) -> Any:
        """Return what all losses of ``query`` (N, ...) have in common; ``shared(query).flip(0)`` is that of its flip.

        Default: None, nothing; then ``forward`` is called with query and target only.
        """
        return None

    def prepare(self, target: Tensor) -> Any:
        """Return what all losses against ``target`` (N, ...) have in common. Default: the target itself."""
        return target

    def terms(self, query: Tensor, target: Any, shared: Any = None) -> Tensor:
        """Return the loss split into terms that a mixture weights apart, (V,) of V crops; their sum is the loss.

        Default: one term, the loss itself, ().

        Args:
            query: (N, ...).
            target: From :meth:`prepare`.
            shared: From :meth:`shared`; None: not computed yet.
        """
        loss: Tensor = self(query, target) if shared is None else self(query, target, shared)
        return loss

    def each(self, query: Tensor, target: Any, shared: Any = None) -> Tensor:
        """Return the losses (N,) of the samples, whose mean is the loss, for mixtures with a share for each sample.

        A loss that is not a mean over samples, such as one of a covariance, has none: such a head leaves this method
        alone, and ``unmix.shares='sample'`` is refused.

        Args:
            query: (N, ...).
            target: From :meth:`prepare`.
            shared: From :meth:`shared`; None: not computed yet.

        Raises:
            NotImplementedError: By default.
        """
        raise NotImplementedError(f'{type(self).__name__} has no loss of a single sample.')

    def regulariser(self, features: Mapping[Any, Tensor]) -> Tensor | None:
        """Return the part of the loss that is of no pair, (), of the clean queries (N, ...) by view.

        Default: None, there is none. It changes nothing, as ``forward``.
        """
        return None

    def enter(self, index: Tensor | None) -> None:
        """Bring the head into the form that the loss of the instances ``index`` (N,) needs; called before each loss.

        It may move rows to where loss and optimiser reach them, or scale weights that were loaded. A second call
        changes nothing, and a call for a step that is not taken leaves the training as it was. Default: nothing.
        """

    def update(self, queries: Mapping[Any, Tensor], targets: Mapping[Any, Tensor]) -> None:
        """Move the state by one micro-batch; queries and targets are the clean ones, by view. Default: no state."""

    def frozen_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that do not learn in the present step. Default: none.

        An optimiser must find no gradient there: with one of zeros it would still decay the weights, or move them by
        its momentum. :meth:`BaseAlgorithm.before_step` drops it.
        """
        return ()

    def after_step(self) -> None:
        """Update what depends on the optimiser; called once after each of its steps. Default: nothing."""

    def follow(self, optimizer: Optimizer) -> None:
        """Take note of the optimiser that trains the head, before the first step. Default: nothing.

        Raises:
            ValueError: If the head cannot be trained with it.
        """

    def misfits(self, sizes: Sizes) -> list[Misfit]:
        """Return what does not fit, or serves no purpose, at these sizes of a training; checked before it.

        Default: ``num_instances``, if the head has it.
        """
        if self.num_instances is None or self.num_instances == sizes.images:
            return []
        less = sizes.images < self.num_instances
        end = 'only {} images: the rest are never seen' if less else '{} images'
        reason = f'model.head.num_instances is {self.num_instances}, but the training data set has '
        return [Misfit(reason + end.format(sizes.images), fatal=not less)]

    def suitable(self, sizes: Sizes) -> dict[str, int] | None:
        """Return options, by their full keys, with which the head has no :meth:`misfits`; only those that must change.

        None if there are none at this batch, so that a smaller one is tried. Default: ``num_instances``.
        """
        fits = self.num_instances in (None, sizes.images)
        return {} if fits else {'model.head.num_instances': sizes.images}

    def stored(self, target: Tensor) -> Tensor | None:
        """Return the stored features (N, D) that the queries of ``target`` should be near to. Default: None."""
        return None

    @property
    def chance_loss(self) -> float | None:
        """Loss of features that are the same for all images, as after a collapse. Default: None, unknown."""
        return None

    def health(self, features: Tensor) -> dict[str, Tensor]:
        """Return scalar statistics of the state and unit ``features`` (N, D). Default: none.

        They are logged by :class:`HealthHook`, which calls this now and then, outside of the step.
        """
        return {}

    def saved(self, kept: Iterable[Mapping[str, Tensor]]) -> None:
        """Remove files that no checkpoint needs; called on rank 0 while one is saved. Default: nothing.

        Args:
            kept: The state dicts of the models of all other checkpoints of the run, each read when it is asked for.
        """
