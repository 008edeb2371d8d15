"""Rows that a step overwrites, kept for the case that it is taken back."""

import torch
from torch import Tensor


class Journal:
    """What stood in the rows that a module writes in place.

    So a queue, a bank or a table can be written in place, and a step costs as much as the rows it writes, not as a copy
    of them all; :class:`StepState` opens the journal before a step and undoes it after one that failed. A module calls
    it ``journal``, and says in ``journaled`` which of its buffers are only ever written by :meth:`write`. As long as no
    one opens it, it keeps nothing.
    """

    def __init__(self) -> None:
        self._written: list[tuple[Tensor, int, Tensor, Tensor]] | None = None

    def open(self) -> None:
        """Begin anew: from now on, keep what is overwritten."""
        self._written = []

    @torch.no_grad()
    def write(self, tensor: Tensor, dim: int, index: Tensor, values: Tensor) -> None:
        """Replace the rows ``index`` (R,) of ``tensor`` along ``dim``, in place."""
        if self._written is not None:
            self._written.append((tensor, dim, index, tensor.index_select(dim, index)))
        tensor.index_copy_(dim, index, values)

    @torch.no_grad()
    def undo(self) -> None:
        """Put back all that was overwritten since :meth:`open`."""
        while self._written:
            tensor, dim, index, values = self._written.pop()
            tensor.index_copy_(dim, index, values)
