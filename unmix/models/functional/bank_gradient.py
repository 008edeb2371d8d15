"""The gradient of a bank, kept as what it is made of. Shapes: R queries, K rows, C of a chunk, D features."""

import torch
from torch import Tensor

from unmix.models.functional.bank_chunks import chunks, hide, new_table, raw_gradient, read_chunk


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
    """

    def __init__(self, scale: float, unit_rows: bool, valid: Tensor | None = None) -> None:
        self.scale, self.unit_rows, self.valid = scale, unit_rows, valid
        self._soft: list[tuple[Tensor, ...]] = []
        self._own: list[tuple[Tensor, ...]] = []
        self._stack: tuple[Tensor, ...] = ()

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
        self._stack = ()
        self._soft.clear()
        self._own.clear()

    @torch.no_grad()
    def ready(self, bank: Tensor) -> None:
        """Stack the terms, once they are all there, so that each chunk is read once."""
        if self._soft:
            query, lse, weight = map(torch.cat, zip(*self._soft, strict=True))
            base = lse.clamp(min=torch.finfo(lse.dtype).min)[:, None]
            self._stack = self.scale * query, base, self.scale * weight[:, None] * query, new_table(query, bank)

    @torch.no_grad()
    def chunk(self, bank: Tensor, rows: slice) -> Tensor:
        """Return the gradient (C, D) of some rows of the bank, less that of :meth:`own_rows`; after :meth:`ready`."""
        scaled, base, weighted, room = self._stack
        chunk, length = read_chunk(bank, rows, scaled.dtype, self.unit_rows)
        table = torch.mm(scaled, chunk.T, out=room[:, : len(chunk)])
        hide(table, rows, self.valid)
        return raw_gradient(table.sub_(base).exp_().T @ weighted, chunk, length)

    @torch.no_grad()
    def own_rows(self, bank: Tensor) -> tuple[Tensor, Tensor]:
        """Return the own rows (R,), some perhaps more than once, and what is to be added to their gradient (R, D)."""
        if not self._own:
            return torch.empty(0, dtype=torch.long, device=bank.device), bank[:0]
        query, index, weight = map(torch.cat, zip(*self._own, strict=True))
        rows, length = read_chunk(bank, index, query.dtype, self.unit_rows)
        return index, raw_gradient(self.scale * weight[:, None] * query, rows, length)

    @torch.no_grad()
    def dense(self, bank: Tensor) -> Tensor:
        """Return the whole gradient (K, D)."""
        self.ready(bank)
        whole = torch.empty_like(bank) if self._soft else torch.zeros_like(bank)
        for rows in chunks(bank) if self._soft else ():
            whole[rows] = self.chunk(bank, rows)
        index, own = self.own_rows(bank)
        return whole.index_add_(0, index, own.to(whole.dtype))
