"""What every head is: a loss and its state."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from mmengine.model import BaseModule
from torch import Tensor


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
    """

    unit_length: bool = True

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

    def health(self, features: Tensor) -> dict[str, Tensor]:
        """Return scalars that tell how the state stands to unit ``features`` (N, D). Default: none.

        They are logged by :class:`HealthHook`, which calls this now and then, outside of the step.
        """
        return {}
