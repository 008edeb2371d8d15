"""What every head is: a loss and its state."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from mmengine.model import BaseModule
from torch import Tensor
from torch.optim import Optimizer


class BaseHead(BaseModule, ABC):
    """A loss between queries and targets, with the state (queue, bank, prototypes) that it needs.

    ``forward`` is pure: it may be called any number of times a step and changes nothing. State moves once a step, in
    ``update``, with the clean features only.

    A query may meet several targets, in Un-Mix also in reverse order. What its loss takes from the state whatever the
    target, as the log-sum-exp over the negatives of a queue, is then computed once: a head that has such a part returns
    it in ``shared``, and takes it back in ``forward(query, target, shared)``.

    Attributes:
        unit_length: Whether queries and targets are scaled to unit length before they come here; False leaves them as
            the neck gives them.
        num_instances: Number of training images, if the head has a row for each.
    """

    unit_length: bool = True
    num_instances: int | None = None

    @abstractmethod
    def forward(self, query: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss, a mean over samples, of ``query`` (N, ...) against ``target`` (N, ...)."""

    def shared(self, query: Tensor) -> Tensor | None:
        """Return what all losses of ``query`` (N, ...) have in common, (N, ...), row n that of query n alone.

        Default: None, nothing; then ``forward`` is called with query and target only.
        """
        return None

    def update(self, queries: Mapping[int, Tensor], targets: Mapping[int, Tensor]) -> None:
        """Move the state by one step; queries and targets are the clean ones, by view. Default: no state."""

    @property
    def chance_loss(self) -> float | None:
        """The loss of features that tell nothing apart. Default: None, not known."""
        return None

    def follow(self, optimizer: Optimizer) -> None:
        """Take note of the optimiser, before the first step. Default: nothing."""

    def stored(self, target: Tensor) -> Tensor | None:
        """Return the features (N, D) that the state holds for an integer ``target`` (N, ...). Default: None, none."""
        return None

    def health(self, features: Tensor) -> dict[str, Tensor]:
        """Return scalars that tell how the state stands to unit ``features`` (N, D). Default: none.

        They are logged by :class:`HealthHook`, which calls this now and then, outside of the step.
        """
        return {}
