"""Heads whose targets are instances of the data set."""

from abc import abstractmethod

from torch import Tensor

from unmix.models.heads.base import BaseHead


class InstanceHead(BaseHead):
    """A head that knows every image of the data set by its number."""

    num_instances: int

    @abstractmethod
    def address(self, index: Tensor | None) -> Tensor:
        """Return the target (N, ...) of the instances ``index`` (N,) in this step.

        Raises:
            ValueError: If there are no ids, or one lies outside of [0, num_instances).
        """


def check_index(index: Tensor | None, num_instances: int) -> Tensor:
    """Return the instance ids (N,) of a batch if they are usable.

    Ids on an accelerator are not compared with ``num_instances``, which would wait for the device; before a training
    :class:`InstanceHook` compares the data set's length.

    Raises:
        ValueError: If there are none, or one lies outside of [0, num_instances).
    """
    if index is None:
        raise ValueError(
            'The batch has no `index`, the number of each image in the data set, which is the target of this method. '
            "Let the data set's items carry it (all of unmix.datasets do), or pass index= to the model."
        )
    if index.device.type == 'cpu' and len(index) and not 0 <= int(index.min()) <= int(index.max()) < num_instances:
        raise ValueError(
            f'A batch has instance ids from {int(index.min())} to {int(index.max())}, but model.head.num_instances is '
            f'{num_instances}: set it to the number of training images.'
        )
    return index
