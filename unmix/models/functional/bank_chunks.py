"""Read a bank of rows in chunks that fit in the processor's cache. Shapes: R queries, C rows of a chunk, D features."""

from collections.abc import Iterator

import torch
from torch import Tensor

from unmix.models.functional.at_a_time import ON_ACCELERATORS

# Rows of a chunk, per CPU thread. With 64 to 512 queries of 128 features, chunks of 512 to 2048 rows take the same time
# within 5 %: the chunk and its similarities fit in the cache.
CHUNK = 1024
EPS = 1e-12  # lower bound of a row's length, as in torch.nn.functional.normalize


def chunk_size(query: Tensor, bank: Tensor) -> int:
    """Return the number of rows of a chunk for queries (R, D); the last chunk may have fewer.

    On accelerators neither the chunk nor its similarities have more numbers than :data:`ON_ACCELERATORS`.
    """
    on_cpu = bank.device.type == 'cpu'
    size = CHUNK * torch.get_num_threads() if on_cpu else ON_ACCELERATORS // max(query.shape)
    return min(max(size, 1), len(bank))


def chunks(query: Tensor, bank: Tensor) -> Iterator[slice]:
    """Return the row ranges of all chunks of a bank, in order."""
    size = chunk_size(query, bank)
    return (slice(start, min(start + size, len(bank))) for start in range(0, len(bank), max(size, 1)))


def new_table(query: Tensor, bank: Tensor) -> Tensor:
    """Allocate the similarities of all queries to one chunk, (R, C). All chunks reuse this memory."""
    return query.new_empty(len(query), chunk_size(query, bank))


def read_chunk(bank: Tensor, rows: slice | Tensor, dtype: torch.dtype, unit_rows: bool) -> tuple[Tensor, Tensor | None]:
    """Return rows of a bank (C, D). With ``unit_rows`` they are scaled to unit length, and their lengths (C, 1) follow.

    Without ``unit_rows`` the second value is None.
    """
    chunk = bank[rows].to(dtype)
    if not unit_rows:
        return chunk, None
    length = chunk.square().sum(1, keepdim=True).sqrt_().clamp_(min=EPS)
    return chunk / length, length


def hide(table: Tensor, rows: slice, valid: Tensor | None) -> None:
    """Set the similarities (R, C) of rows that are not valid to -inf, in place; ``valid`` as in :func:`bank_lse`."""
    if valid is not None:
        table.masked_fill_(~valid[rows], -torch.inf)


def raw_gradient(gradient: Tensor, unit: Tensor, length: Tensor | None) -> Tensor:
    """Return the gradient (C, D) of the rows of the bank, given that of the rows that :func:`read_chunk` returns.

    ``unit`` and ``length`` are the values of :func:`read_chunk`. ``gradient`` may be overwritten.
    """
    if length is None:
        return gradient
    along = (gradient * unit).sum(1, keepdim=True)
    return gradient.addcmul_(along, unit, value=-1).div_(length)
