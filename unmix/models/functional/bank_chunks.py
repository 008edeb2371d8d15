"""A bank of rows, chunk by chunk. Shapes: R queries, C rows of a chunk, D features."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

# Rows of a chunk. Measured on a CPU with 64 to 512 queries of 128 numbers: 256 to 1024 rows, which the cache holds with
# their similarities, take the same time within 5 %. Not measured on accelerators, which want few and large launches.
CHUNK = {'cpu': 512}
CHUNK_OF_OTHERS = 16384


def chunks(bank: Tensor) -> Iterator[slice]:
    """Cut the rows of a bank."""
    size = CHUNK.get(bank.device.type, CHUNK_OF_OTHERS)
    return (slice(start, min(start + size, len(bank))) for start in range(0, len(bank), size))


def read_chunk(bank: Tensor, rows: slice, dtype: torch.dtype, unit_rows: bool) -> Tensor:
    """Return some rows of a bank (C, D), of unit length if so wanted."""
    chunk = bank[rows].to(dtype)
    return F.normalize(chunk, dim=1) if unit_rows else chunk


def hide(table: Tensor, rows: slice, valid: Tensor | None, exclude: Tensor | None) -> None:
    """Write -inf to those of a chunk's similarities (R, C) that do not count, see :func:`bank_lse`."""
    if valid is not None:
        table.masked_fill_(~valid[rows], -torch.inf)
    if exclude is not None:
        place = torch.arange(rows.start, rows.stop, device=table.device)
        table.masked_fill_(exclude[:, None] == place, -torch.inf)


def unit_gradient(gradient: Tensor, unit: Tensor, chunk: Tensor, eps: float = 1e-12) -> Tensor:
    """Return the gradient (C, D) of a chunk's rows, from that of the same rows at unit length."""
    length = chunk.norm(dim=1, keepdim=True).clamp(min=eps)
    return (gradient - (gradient * unit).sum(1, keepdim=True) * unit).div_(length)
