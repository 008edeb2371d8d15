"""A bank of rows, chunk by chunk. Shapes: R queries, C rows of a chunk, D features."""

from collections.abc import Iterator

import torch
from torch import Tensor

# Rows of a chunk, for each thread of a CPU. Measured with 64 to 512 queries of 128 numbers: 512 to 2048 rows, which a
# cache holds with their similarities, take the same time within 5 %. Not measured on accelerators, which want
# few launches.
CHUNK = {'cpu': 1024}
CHUNK_OF_OTHERS = 16384
EPS = 1e-12  # least length, as in torch.nn.functional.normalize


def chunk_size(bank: Tensor) -> int:
    """Return how many rows of a bank a chunk has; the last one may have fewer."""
    size = CHUNK['cpu'] * torch.get_num_threads() if bank.device.type == 'cpu' else CHUNK_OF_OTHERS
    return min(size, len(bank))


def chunks(bank: Tensor) -> Iterator[slice]:
    """Cut the rows of a bank."""
    size = chunk_size(bank)
    return (slice(start, min(start + size, len(bank))) for start in range(0, len(bank), max(size, 1)))


def new_table(query: Tensor, bank: Tensor) -> Tensor:
    """Return room for the similarities of all queries to a chunk, (R, C), which is used for one after the other."""
    return query.new_empty(len(query), chunk_size(bank))


def read_chunk(bank: Tensor, rows: slice | Tensor, dtype: torch.dtype, unit_rows: bool) -> tuple[Tensor, Tensor | None]:
    """Return some rows of a bank (C, D), of unit length if so wanted, and then the lengths (C, 1) that they had."""
    chunk = bank[rows].to(dtype)
    if not unit_rows:
        return chunk, None
    length = chunk.square().sum(1, keepdim=True).sqrt_().clamp_(min=EPS)
    return chunk / length, length


def hide(table: Tensor, rows: slice, valid: Tensor | None) -> None:
    """Write -inf to those of a chunk's similarities (R, C) that do not count, see :func:`bank_lse`."""
    if valid is not None:
        table.masked_fill_(~valid[rows], -torch.inf)


def raw_gradient(gradient: Tensor, unit: Tensor, length: Tensor | None) -> Tensor:
    """Return the gradient (C, D) of the rows as they are, from that of the rows that :func:`read_chunk` returns."""
    if length is None:
        return gradient
    along = (gradient * unit).sum(1, keepdim=True)
    return gradient.addcmul_(along, unit, value=-1).div_(length)
