"""Features of a data set: all, or the rows that a rank holds. Shapes: N rows in all, n of a rank, D dimensions."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from mmengine.dist import all_gather, all_reduce_params, broadcast, broadcast_object_list, get_rank, get_world_size
from torch import Tensor

PIECE = 2**26  # bytes that a rank sends at once
MARGIN = 2**31  # bytes that a bank on an accelerator leaves free, for the blocks of the metrics


class Features(NamedTuple):
    """Features of one data set.

    Attributes:
        features: (N, D), floating.
        labels: (N,) integers.
    """

    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Shard:
    """The rows of a data set that this rank holds, and the labels of all rows. In one process it holds all rows.

    Attributes:
        features: (n, D), floating; on the host where they were collected there, or have no room on the device.
        rows: (n,) int64 on the host, which rows of the data set these are; each row is on one rank.
        all_labels: (N,) integers on the host, the same on all ranks.
        spread: Whether the other rows are on other ranks. Without it a rank has all rows, and nothing is sent.
        images: (N,) int64 on the host, the number in the data set of each row's image; None: that of the row. They
            differ where images were left out.
    """

    features: Tensor
    rows: Tensor
    all_labels: Tensor
    spread: bool = False
    images: Tensor | None = None

    @classmethod
    def of(cls, features: 'Features | Shard') -> 'Shard':
        """Return the shard of all rows, not copied; a shard is returned as it is."""
        if isinstance(features, Shard):
            return features
        return cls(features.features, torch.arange(len(features.labels)), features.labels.cpu())

    @classmethod
    def deal(cls, features: Features | None) -> 'Shard':
        """Give each rank an equal share of the rows that rank 0 has on its host; others pass None."""
        if get_world_size() == 1:
            assert features is not None
            return cls.of(features)
        header: list[Any] = [None]
        if features is not None:
            header = [(features.features.shape, features.features.dtype, features.labels.cpu())]
        broadcast_object_list(header, src=0)
        (total, width), dtype, labels = header[0]
        begin, end = (total * rank // get_world_size() for rank in (get_rank(), get_rank() + 1))
        own = torch.empty(end - begin, width, dtype=dtype)
        for start, stop in _pieces(total, width * dtype.itemsize):
            piece = torch.empty(stop - start, width, dtype=dtype) if features is None else features.features[start:stop]
            broadcast(piece, src=0)
            first, last = max(start, begin), min(stop, end)
            if first < last:
                own[first - begin : last - begin] = piece[first - start : last - start]
        return cls(own, torch.arange(begin, end), labels, spread=True)

    @property
    def labels(self) -> Tensor:
        """Labels (n,) of the own rows, on the device of the features."""
        return self.all_labels[self.rows].to(self.features.device)

    def to(self, device: torch.device) -> 'Shard':
        """Return the shard with its features on a device, if they and 2 GiB more have room there, else as it is."""
        room = device.type != 'cuda' or self.features.nbytes + MARGIN <= _free(device)
        return replace(self, features=self.features.to(device)) if room else self

    def numbers(self, chosen: Tensor) -> Tensor:
        """Return the numbers in the data set of the images of rows ``chosen``, of any shape."""
        return chosen if self.images is None else self.images[chosen]

    def take(self, chosen: Tensor) -> 'Shard':
        """Return the data set that consists of the rows ``chosen`` (M,), in that order; the own ones are copied."""
        place = self.local(chosen)
        own = (place >= 0).nonzero()[:, 0]
        features = self.features[place[own].to(self.features.device)]
        return Shard(features, own, self.all_labels[chosen], self.spread, self.numbers(chosen))

    def local(self, chosen: Tensor) -> Tensor:
        """Return where rows ``chosen`` (M,) of the data set are among the own; -1 where another rank has the row."""
        place = torch.full((len(self.all_labels),), -1)
        place[self.rows] = torch.arange(len(self.rows))
        return place[chosen]

    def sum(self, *tensors: Any) -> None:
        """Add up what the ranks have found on their rows, in place, in one collective."""
        if self.spread:
            all_reduce_params(list(tensors), op='sum')

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Return what each rank has found on its rows, of one shape; here, if it has all rows, the tensor alone."""
        return all_gather(tensor.contiguous()) if self.spread else [tensor]

    def whole(self, keep: bool = True) -> Features | None:
        """Return all rows in order, on the device of the own ones: N * D numbers more there. All ranks call it.

        Args:
            keep: Whether this rank wants them; without it None is returned.
        """
        if not self.spread:
            return Features(self.features, self.labels)
        counts = [int(count) for count in all_gather(torch.tensor([len(self.rows)]))]
        width, device = self.features.shape[1], self.features.device
        found = self.features.new_empty(sum(counts), width) if keep else None
        for rank, count in enumerate(counts):
            for start, stop in _pieces(count, width * self.features.itemsize):
                piece, rows = self.features.new_empty(stop - start, width), self.rows.new_empty(stop - start)
                if rank == get_rank():
                    piece, rows = self.features[start:stop], self.rows[start:stop]
                broadcast(piece, src=rank)
                broadcast(rows, src=rank)
                if found is not None:
                    found[rows.to(device)] = piece
        return None if found is None else Features(found, self.all_labels.to(device))


def _pieces(number: int, row_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of pieces of rows, of at most 64 MiB where a row is less."""
    step = max(1, PIECE // row_bytes)
    return ((start, min(start + step, number)) for start in range(0, number, step))


def _free(device: torch.device) -> int:
    """Bytes that PyTorch can still allocate on a CUDA device, in blocks that it has cached or new ones."""
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + cached
