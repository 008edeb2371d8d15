"""The gradient of a bank, kept as what it is made of. Shapes: R queries, K rows, C of a chunk, D features."""

import torch
from torch import Tensor

from unmix.models.functional.bank_chunks import chunks, hide, read_chunk, unit_gradient


class BankGradient:
    """The gradient (K, D) of a bank whose softmax over the rows was taken, without a tensor of its size.

    ``g_k = scale * sum_r a_r p_rk q_r + scale * sum_r b_r [k = own_r] q_r``, ``p_rk = exp(scale * q_r . w_k - lse_r)``

    It holds the queries, ``lse``, ``a`` (from :func:`bank_lse`) and ``b`` (from :func:`own_similarity`); the gradient
    of any chunk of rows is computed from them when it is needed. Backward passes add to it until it is cleared.

    Args:
        scale: Factor of the similarities.
        unit_rows: Whether the softmax is over the rows scaled to unit length; the gradient is that of the rows as they
            are.
        valid: As in :func:`bank_lse`.
        exclude: As in :func:`bank_lse`.
    """

    def __init__(
        self, scale: float, unit_rows: bool, valid: Tensor | None = None, exclude: Tensor | None = None
    ) -> None:
        self.scale, self.unit_rows, self.valid, self.exclude = scale, unit_rows, valid, exclude
        self._soft: list[tuple[Tensor, ...]] = []
        self._own: list[tuple[Tensor, ...]] = []

    def add_soft(self, query: Tensor, lse: Tensor, weight: Tensor) -> None:
        """Add the terms of queries (R, D) with log-sum-exps (R,) and weights a (R,)."""
        self._soft.append((query, lse, weight))

    def add_own(self, query: Tensor, index: Tensor, weight: Tensor) -> None:
        """Add the terms of queries (R, D) with own rows (R,) and weights b (R,)."""
        self._own.append((query, index, weight))

    def __bool__(self) -> bool:
        return bool(self._soft or self._own)

    def clear(self) -> None:
        """Forget all terms."""
        self._soft.clear()
        self._own.clear()

    def merge(self) -> None:
        """Stack all terms, so that each chunk is read once."""
        for terms in (self._soft, self._own):
            terms[:] = [tuple(map(torch.cat, zip(*terms, strict=True)))] if terms else []

    def chunk(self, bank: Tensor, rows: slice) -> Tensor:
        """Return the gradient (C, D) of some rows of the bank."""
        dtype = (self._soft or self._own)[0][0].dtype
        chunk = read_chunk(bank, rows, dtype, self.unit_rows)
        gradient = chunk.new_zeros(len(chunk) + 1, chunk.shape[1])  # one more row for what is outside
        for query, index, weight in self._own:
            inside = (index >= rows.start) & (index < rows.stop)
            place = torch.where(inside, index - rows.start, len(chunk))
            gradient.index_add_(0, place, self.scale * weight[:, None] * query)
        gradient = gradient[:-1]
        for query, lse, weight in self._soft:
            table = self.scale * query @ chunk.T
            hide(table, rows, self.valid, self.exclude)
            table.sub_(lse.clamp(min=torch.finfo(dtype).min)[:, None]).exp_()
            gradient.addmm_(table.T, self.scale * weight[:, None] * query)
        return unit_gradient(gradient, chunk, bank[rows].to(dtype)) if self.unit_rows else gradient

    def dense(self, bank: Tensor) -> Tensor:
        """Return the whole gradient (K, D)."""
        whole = torch.empty_like(bank)
        for rows in chunks(bank):
            whole[rows] = self.chunk(bank, rows)
        return whole
